"""The official OpenAI client against the server; every response is compared with the library."""

import base64
import json
from typing import Any

import numpy as np
import openai
import pytest

from beholder import DualEncoder, VisionLanguageModel
from serving import Running, data_address, file_of, picture


@pytest.fixture(scope="module")
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.base}/v1", api_key="none is needed", max_retries=0, timeout=60)


def part(seed: int = 0) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_address(picture(seed))}}


def user_message(question: str, seed: int = 0) -> dict[str, Any]:
    return {"role": "user", "content": [part(seed), {"type": "text", "text": question}]}


def test_models_are_listed_without_paths(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError, match="no model with this name"):
        client.models.retrieve("gpt-4o")


def test_text_embeddings_match_the_library(client: openai.OpenAI, encoder: DualEncoder) -> None:
    texts = ["a dog by the sea", "a cat", "the night"]
    answer = client.embeddings.create(model="tiny", input=texts)  # the client requests base64
    plain = client.embeddings.create(model="tiny", input=texts, encoding_format="float")
    expected = encoder.embed_texts(texts)
    np.testing.assert_allclose([row.embedding for row in answer.data], expected, atol=1e-6)
    np.testing.assert_allclose([row.embedding for row in plain.data], expected, atol=1e-6)
    assert [row.index for row in answer.data] == [0, 1, 2]
    tokens = int(encoder.loaded.tokenizer(texts).mask.sum())
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == tokens
    single = client.embeddings.create(model="tiny", input="a cat", dimensions=8)
    np.testing.assert_allclose(single.data[0].embedding, expected[1], atol=1e-6)


def test_pictures_and_texts_can_be_mixed_in_one_request(server: Running, encoder: DualEncoder) -> None:
    mixed = [data_address(picture(1)), "a cat", part(2), {"type": "text", "text": "a dog"}]
    answer = server.post("/v1/embeddings", {"model": "tiny", "input": mixed}).json
    images, texts = encoder.embed_images([picture(1), picture(2)]), encoder.embed_texts(["a cat", mixed[3]["text"]])
    expected = [images[0], texts[0], images[1], texts[1]]
    np.testing.assert_allclose([row["embedding"] for row in answer["data"]], expected, atol=1e-6)


def test_a_rotated_photograph_is_embedded_upright(server: Running, encoder: DualEncoder) -> None:
    exif = picture(3).getexif()
    exif[0x0112] = 6
    data = file_of(picture(3, (90, 60)), "JPEG", exif=exif, quality=95)
    answer = server.post("/v1/embeddings", {"model": "tiny", "input": data_address(data, "image/jpeg")}).json
    np.testing.assert_allclose([answer["data"][0]["embedding"]], encoder.embed_images([data]), atol=1e-6)


def test_chat_answers_match_the_library(client: openai.OpenAI, vision_language_model: VisionLanguageModel) -> None:
    answer = client.chat.completions.create(model="tiny", messages=[user_message("what is this ?")], max_tokens=12)
    chat = vision_language_model.chat(picture(), max_new_tokens=12)
    assert answer.choices[0].message.content == chat.ask("what is this ?").strip()
    turn = chat.turns[0]
    assert answer.choices[0].finish_reason == ("stop" if turn.finished else "length")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(turn.answer_ids)
    assert answer.usage.prompt_tokens == vision_language_model.bridge.settings.soft_prompts + len(turn.question_ids)
    assert answer.model == "tiny" and answer.object == "chat.completion"


def test_a_stream_contains_the_same_text_and_the_usage(client: openai.OpenAI) -> None:
    messages = [user_message("where is the red dog ?", 1)]
    whole = client.chat.completions.create(model="tiny", messages=messages, max_completion_tokens=10)
    options = {"include_usage": True}
    stream = client.chat.completions.create(
        model="tiny", messages=messages, max_completion_tokens=10, stream=True, stream_options=options
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.strip() == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len(chunks) > 4


def test_a_conversation_continues_from_its_messages(
    client: openai.OpenAI, vision_language_model: VisionLanguageModel
) -> None:
    chat = vision_language_model.chat(picture(2), max_new_tokens=6)
    chat.add_turn("what is this ?", "a red dog")
    second = chat.ask("how many ?")
    messages = [
        user_message("what is this ?", 2),
        {"role": "assistant", "content": "a red dog"},
        {"role": "user", "content": "how many ?"},
    ]
    answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=6)
    assert answer.choices[0].message.content == second.strip()
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == chat.num_tokens - len(chat.turns[-1].answer_ids)


def test_the_system_message_is_prepended_to_the_first_question(client: openai.OpenAI) -> None:
    with_system = [{"role": "system", "content": "yes no dog"}, user_message("what is this ?")]
    together = [user_message("yes no dog what is this ?")]
    answers = [
        client.chat.completions.create(model="tiny", messages=each, max_tokens=8) for each in (with_system, together)
    ]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content


def test_sampling_is_determined_by_the_seed(client: openai.OpenAI) -> None:
    def draw(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="tiny", messages=[user_message("what is this ?")], max_tokens=10, temperature=1.5, seed=seed
        )
        return answer.choices[0].message.content

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(5)}) > 1


def test_a_stop_sequence_ends_the_answer_and_is_excluded(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "tiny", "messages": [user_message("what is this ?")], "max_tokens": 12}
    words = (client.chat.completions.create(**options).choices[0].message.content or "").split()
    stop = " ".join(words[2:4])
    answer = client.chat.completions.create(**options, stop=[stop])
    assert (answer.choices[0].message.content or "").split() == " ".join(words).split(stop)[0].split()
    assert answer.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(**options, stop=stop, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text.split() == (answer.choices[0].message.content or "").split()


WRONG: list[tuple[str, dict[str, Any], int, str | None]] = [
    ("unknown model", {"model": "gpt-4o"}, 404, "model"),
    ("no picture", {"messages": [{"role": "user", "content": "hello"}]}, 400, "messages"),
    ("two pictures", {"messages": [user_message("a", 1), user_message("b", 2)]}, 400, "messages"),
    ("no text", {"messages": [{"role": "user", "content": [part()]}]}, 400, "messages"),
    (
        "assistant message first",
        {"messages": [{"role": "assistant", "content": "hi"}, user_message("a")]},
        400,
        "messages",
    ),
    (
        "assistant message last",
        {"messages": [user_message("a"), {"role": "assistant", "content": "hi"}]},
        400,
        "messages",
    ),
    ("n above 1", {"n": 2}, 400, "n"),
    ("tools", {"tools": [{"type": "function"}]}, 400, "tools"),
    ("temperature out of range", {"temperature": 3}, 400, "temperature"),
    ("max_tokens of 0", {"max_tokens": 0}, 400, "max_tokens"),
    ("unknown field", {"best_of": 3}, 400, "best_of"),
    ("stream_options without a stream", {"stream_options": {"include_usage": True}}, 400, "stream_options"),
    ("conversation longer than the context", {"messages": [user_message("dog " * 60)]}, 400, None),
    (
        "turns that are longer together",
        {
            "messages": [
                user_message("dog " * 15),
                {"role": "assistant", "content": "dog " * 24},
                {"role": "user", "content": "a"},
            ]
        },
        400,
        "messages",
    ),
]


@pytest.mark.parametrize(("change", "status", "param"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
@pytest.mark.parametrize("stream", [False, True])
def test_an_invalid_chat_request_gets_an_openai_error(
    server: Running, change: dict[str, Any], status: int, param: str | None, stream: bool
) -> None:
    body = {"model": "tiny", "messages": [user_message("what is this ?")], "max_tokens": 12, "stream": stream} | change
    if stream and "stream_options" in change:
        pytest.skip("they go together")
    answer = server.post("/v1/chat/completions", body)
    assert answer.status == status, answer.data
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    assert answer.json["error"]["type"] == "invalid_request_error"
    if param is not None:
        assert answer.json["error"]["param"] == param


@pytest.mark.parametrize(
    "change",
    [
        {"input": []},
        {"input": ""},
        {"input": ["a cat", "  "]},
        {"input": [1, 2, 3]},
        {"input": [[1, 2], [3]]},
        {"input": "dog " * 30},
        {"input": "x" * 30_000},
        {"input": "half \ud800 a character"},
        {"dimensions": 4},
        {"encoding_format": "int8"},
        {"model": None},
    ],
    ids=lambda change: json.dumps(change)[:30],
)
def test_invalid_embedding_requests_are_refused(server: Running, change: dict[str, Any]) -> None:
    answer = server.post("/v1/embeddings", {"model": "tiny", "input": "a cat"} | change)
    assert answer.status == 400, answer.data
    assert answer.json["error"]["message"]


def test_the_client_raises_its_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="about one picture"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hello"}])
    broken = data_address(b"\x89PNG\r\n\x1a\n and no more")
    with pytest.raises(openai.BadRequestError, match=r"picture 1: .*damaged or truncated") as caught:
        client.embeddings.create(model="tiny", input=broken)
    assert caught.value.code == "invalid_image"


def test_base64_embeddings_are_little_endian_float32(server: Running) -> None:
    body = {"model": "tiny", "input": "a cat", "encoding_format": "base64"}
    coded = server.post("/v1/embeddings", body).json["data"][0]["embedding"]
    vector = np.frombuffer(base64.b64decode(coded), "<f4")
    assert vector.shape == (8,)
    assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-6)


NULLS = [
    "tools",
    "tool_choice",
    "logit_bias",
    "top_logprobs",
    "functions",
    "function_call",
    "parallel_tool_calls",
    "reasoning_effort",
    "prediction",
    "audio",
    "web_search_options",
    "verbosity",
    "safety_identifier",
    "prompt_cache_key",
    "n",
    "stop",
    "stream",
    "stream_options",
]
HARMLESS: dict[str, Any] = {
    "tools": [],
    "tool_choice": "none",
    "logit_bias": {},
    "modalities": ["text"],
    "service_tier": "auto",
    "parallel_tool_calls": False,
}


def test_null_means_absent_and_defaults_are_accepted(server: Running) -> None:
    body = {"model": "tiny", "messages": [user_message("what is this ?")], "max_tokens": 4}
    expected = server.post("/v1/chat/completions", body).json["choices"]
    for change in (dict.fromkeys(NULLS), HARMLESS):
        answer = server.post("/v1/chat/completions", body | change)
        assert answer.status == 200, answer.data
        assert answer.json["choices"] == expected
    url = {"url": data_address(picture()), "detail": None}
    content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "what is this ?"}]
    answer = server.post("/v1/chat/completions", body | {"messages": [{"role": "user", "content": content}]})
    assert answer.json["choices"] == expected
    assert server.post("/v1/embeddings", {"model": "tiny", "input": "a cat", "encoding_format": None}).status == 200


def test_a_returned_message_can_be_sent_back_unchanged(client: openai.OpenAI) -> None:
    messages: list[Any] = [user_message("what is this ?")]
    first = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    messages += [first.choices[0].message, {"role": "user", "content": "how many ?"}]
    assert client.chat.completions.create(model="tiny", messages=messages, max_tokens=4).choices
    messages[1] = first.choices[0].message.model_dump()  # all fields of the client's class, most of them null
    assert client.chat.completions.create(model="tiny", messages=messages, max_tokens=4).choices


def test_base64_may_contain_white_space(server: Running) -> None:
    url = data_address(picture())
    head, _, data = url.partition(",")
    wrapped = head + "," + "\r\n".join(data[start : start + 76] for start in range(0, len(data), 76)) + "\n"
    vectors = [server.post("/v1/embeddings", {"model": "tiny", "input": each}).json["data"] for each in (url, wrapped)]
    assert vectors[0] == vectors[1]


@pytest.mark.parametrize(
    ("path", "body", "param", "words"),
    [
        ("embeddings", {"input": [1, 2, 3]}, None, "token ids"),
        ("embeddings", {"input": [[1, 2], [3]]}, None, "token ids"),
        ("embeddings", {"input": "a", "dimensions": 4}, "dimensions", "8 dimensions"),
        ("chat/completions", {"messages": [user_message("a") | {"role": "robot"}]}, "messages.0.role", ""),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
            "messages.0.content.0.text",
            "",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 1}}]}]},
            "messages.0.content.0.image_url.url",
            "",
        ),
    ],
)
def test_an_error_names_the_invalid_field(
    server: Running, path: str, body: dict[str, Any], param: str | None, words: str
) -> None:
    error = server.post(f"/v1/{path}", {"model": "tiny"} | body).json["error"]
    assert error["param"] == param and words in error["message"]
