"""Published data formats, one module each; `cosup.data.convert` lists them."""
