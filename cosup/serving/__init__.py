"""A trained pair behind HTTP: an OpenAI-style API whose messages carry citations, and a page.

`runner` drives one engine for all clients on a thread of its own, `corpus` holds the index that is searched, `chat`
turns conversations into questions and events into messages, `app` has the routes, `server` binds them to a port.
"""
