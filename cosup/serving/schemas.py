"""What requests and responses look like; the OpenAPI document is made from these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, field_validator, model_validator

Number = Annotated[float, Field(allow_inf_nan=False)]
Scalar = StrictBool | StrictInt | Number | StrictStr
PassageId = Annotated[str, Field(min_length=1, max_length=512)]


class Request(BaseModel):
    """What clients send: fields that are not known are refused by name, and texts that no UTF-8 can hold."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_texts(cls, record: Any) -> Any:
        for text in _texts_in(record):
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise ValueError("a text has half a surrogate pair, which is no UTF-8") from None
        if isinstance(record, dict):  # a member that is null counts as left out, as with OpenAI
            return {name: value for name, value in record.items() if value is not None}
        return record


def _texts_in(value: Any) -> Iterator[str]:
    """Yield every text in a JSON value, however deep it stands."""
    rest = [value]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            rest += [*value, *value.values()]
        elif isinstance(value, list):
            rest += value


# -- chat ------------------------------------------------------------------------------------------------------------


class TextPart(BaseModel):
    """A part of a message's content; text alone is understood."""

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore")  # a client sends back what it was given, annotations and all

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None

    @property
    def text(self) -> str:
        """The content's text."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class TextFormat(Request):
    """The only form of an answer."""

    type: Literal["text"]


class StreamOptions(BaseModel):
    """What a stream has beside the text."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class CosupOptions(Request):
    """How an answer retrieves: what no other API has a field for."""

    top_k: int | None = Field(None, ge=1, le=100, description="Hits kept of each search.")
    min_score: Number | None = Field(None, description="Score of the best hit below which nothing is read and cited.")
    ret_first: bool | None = Field(None, description="Retrieve before the first word.")
    candidates: list[PassageId] | None = Field(
        None, min_length=1, max_length=10_000, description="Ids of the passages that the search is limited to."
    )
    filter: dict[str, Any] | None = Field(
        None, description='What a passage\'s metadata must meet: `{"lang": "en", "year": {"gte": 2000}}`.'
    )
    max_retrievals: int | None = Field(None, ge=1, le=64, description="Searches in an answer at most.")
    read: int | None = Field(None, ge=1, le=10, description="Passages read after each search; a claim cites them all.")
    distinct: bool | None = Field(None, description="Never read a passage twice in one answer.")
    hits: bool = Field(False, description="Whether to say what each search found, with scores.")


class ChatRequest(Request):
    """As OpenAI's; what cosup cannot honour is refused, what would change nothing is taken and ignored."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=256)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: Number | None = Field(
        None, ge=0, le=2, description="0, or left out: the likeliest token; else sampled."
    )
    top_p: Number | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    n: Literal[1] | None = None
    cosup: CosupOptions | None = None
    # Without an effect here.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    # Neutral values alone: anything else would be ignored silently.
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    stop: Annotated[list[str], Field(max_length=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    logit_bias: Annotated[dict[str, Number], Field(max_length=0)] | None = None
    response_format: TextFormat | None = None
    modalities: list[Literal["text"]] | None = None


NEUTRAL_ONLY = frozenset(
    {
        *("n", "frequency_penalty", "presence_penalty", "logprobs", "stop", "tools", "tool_choice", "logit_bias"),
        *("response_format.type", "modalities.0"),
    }
)
"""Fields of a `ChatRequest` that are taken only where they ask for what is so anyway."""


class UrlCitation(BaseModel):
    """Where a claim stands in the content, in characters (code points), and what it rests on."""

    start_index: int
    end_index: int
    title: str
    url: str
    passage_id: str
    score: float
    n: int = Field(description="The number of the `[n]` mark behind the claim.")
    claim: str
    marks: list[tuple[int, int]] = Field(description="Spans of the passage's text that support the claim.")


class Annotation(BaseModel):
    """A citation, in OpenAI's form."""

    type: Literal["url_citation"] = "url_citation"
    url_citation: UrlCitation


class HitOut(BaseModel):
    """A passage that a search found."""

    passage_id: str
    title: str
    score: float


class Search(BaseModel):
    """One `[Ret]`: where in the content it happened, what was found (if asked for), and how many were read."""

    position: int
    read: int
    hits: list[HitOut]


class CosupAnswer(BaseModel):
    """What an answer has beside its content.

    `answer` is the text after the last claim; `finish_reason` is `eos`, `length`, `context` (the model's context is
    full) or `timeout`.
    """

    answer: str
    finish_reason: str
    retrievals: list[Search]
    passage_tokens: int


class ReplyMessage(BaseModel):
    """The message written."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None
    annotations: list[Annotation]


class Choice(BaseModel):
    """The one choice."""

    index: Literal[0] = 0
    message: ReplyMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class Usage(BaseModel):
    """Tokens of the prompt (passages are in `cosup.passage_tokens`) and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    """A whole answer. With `stream`, chunks of `chat.completion.chunk` come as server-sent events instead."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    cosup: CosupAnswer


# -- embeddings, search, passages -------------------------------------------------------------------------------------


class EmbeddingRequest(Request):
    """As OpenAI's, for passages; with `input_type` also for questions."""

    model: str
    input: str | Annotated[list[str], Field(min_length=1)]
    input_type: Literal["passage", "query"] = "passage"
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="Only the pair's own.")
    user: str | None = None

    @field_validator("input", mode="before")
    @classmethod
    def _check_input(cls, value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(part, int | list) for part in value):
            raise ValueError(
                "token ids are of another tokenizer; send texts (LangChain: check_embedding_ctx_length=False)"
            )
        return value


class Embedding(BaseModel):
    """One vector; as base64, of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(BaseModel):
    """Vectors in the order of the input."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class SearchRequest(Request):
    """A question put to the index, without an answer being written."""

    query: str = Field(min_length=1)
    top_k: int = Field(10, ge=1, le=100)
    filter: dict[str, Any] | None = None
    candidates: list[PassageId] | None = Field(None, min_length=1, max_length=10_000)


class PassageIn(Request):
    """A passage to add."""

    id: PassageId
    title: str = ""
    text: str = Field(min_length=1)
    metadata: dict[str, Scalar] = Field(default_factory=dict)


class PassageOut(BaseModel):
    """A passage of the corpus."""

    id: str
    title: str
    text: str
    metadata: dict[str, Any] = Field(default_factory=dict)


class SearchHit(BaseModel):
    """A passage that was found, with its similarity to the question."""

    score: float
    passage: PassageOut


class SearchResponse(BaseModel):
    """Hits, best first."""

    object: Literal["list"] = "list"
    data: list[SearchHit]


class AddRequest(Request):
    """Passages to add, whole or not at all."""

    passages: list[PassageIn] = Field(min_length=1)
    replace: bool = Field(False, description="Whether those with the same ids give way; else a known id is refused.")


class Changed(BaseModel):
    """What a change came to."""

    added: int = 0
    deleted: int = 0
    passages: int = Field(description="Passages that are searched now.")


class ModelOut(BaseModel):
    """The model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "cosup"


class ModelList(BaseModel):
    """All models that are served: one."""

    object: Literal["list"] = "list"
    data: list[ModelOut]


class Health(BaseModel):
    """Whether a server is there, or takes requests."""

    status: Literal["ok", "stopping"]


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorOut(BaseModel):
    """An error."""

    error: ErrorBody
