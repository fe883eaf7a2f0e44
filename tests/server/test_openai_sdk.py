# SPDX-License-Identifier: Apache-2.0
"""The official openai package, unmodified, against every surface that people use."""
import asyncio
import math

import openai
import pytest
from support import MODEL, encode, image_part, screen, text_part

LONG = {"ignore_eos": True}


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=served.base, api_key="EMPTY", max_retries=0, timeout=60) as one:
        yield one


def ask(client, content="Say something.", **fields):
    fields.setdefault("max_tokens", 12)
    return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}], **fields)


def test_models(client):
    listed = list(client.models.list())
    assert MODEL in [model.id for model in listed]
    one = client.models.retrieve(MODEL)
    assert one.object == "model" and one.max_model_len > 0
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_chat(client):
    answer = ask(client, temperature=0)
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion" and answer.model == MODEL
    assert answer.created > 1_700_000_000
    [choice] = answer.choices
    assert choice.index == 0 and choice.message.role == "assistant" and isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert 0 < usage.completion_tokens <= 12 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_length_is_exact(client):
    for fields in ({"max_tokens": 7}, {"max_tokens": openai.omit, "max_completion_tokens": 7}):
        answer = ask(client, extra_body=LONG, **fields)
        assert answer.usage.completion_tokens == 7 and answer.choices[0].finish_reason == "length"


def test_stream(client):
    whole = ask(client, temperature=0, extra_body=LONG)
    chunks = list(ask(client, temperature=0, stream=True, extra_body=LONG))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert all(chunk.object == "chat.completion.chunk" and chunk.id == chunks[0].id for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    reasons = [chunk.choices[0].finish_reason for chunk in chunks]
    assert reasons[-1] == "length" and not any(reasons[:-1])


def test_stream_usage(client):
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, extra_body=LONG))
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 12
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_async(served):
    async def talk():
        async with openai.AsyncOpenAI(base_url=served.base, api_key="EMPTY", max_retries=0) as client:
            whole, stream = await asyncio.gather(
                ask(client, temperature=0), ask(client, temperature=0, stream=True))
            return whole.choices[0].message.content, "".join(
                [chunk.choices[0].delta.content or "" async for chunk in stream])

    whole, streamed = asyncio.run(talk())
    assert whole == streamed


def test_several_choices(client):
    answer = ask(client, n=3, temperature=1.0, seed=5, extra_body=LONG)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == 36
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_several_choices_streamed(client):
    texts = ["", ""]
    for chunk in ask(client, n=2, temperature=1.0, stream=True, seed=5, extra_body=LONG):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    whole = ask(client, n=2, temperature=1.0, seed=5, extra_body=LONG)
    assert texts == [choice.message.content for choice in whole.choices]


def check_logprobs(entries, top):
    for entry in entries:
        assert entry.logprob <= 1e-6 and bytes(entry.bytes or b"").decode("utf-8", "replace") is not None
        values = [other.logprob for other in entry.top_logprobs]
        assert len(values) == top and values == sorted(values, reverse=True)
        assert sum(math.exp(value) for value in values) <= 1 + 1e-3


def test_logprobs(client):
    answer = ask(client, temperature=0, logprobs=True, top_logprobs=4, extra_body=LONG)
    entries = answer.choices[0].logprobs.content
    assert len(entries) == 12
    check_logprobs(entries, 4)
    assert all(entry.token == entry.top_logprobs[0].token for entry in entries)
    streamed = [entry for chunk in ask(client, temperature=0, logprobs=True, top_logprobs=4, stream=True, extra_body=LONG)
                if chunk.choices[0].logprobs for entry in chunk.choices[0].logprobs.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in entries]


def test_logprobs_without_alternatives(client):
    entries = ask(client, logprobs=True).choices[0].logprobs.content
    assert entries and all(entry.top_logprobs == [] for entry in entries)


def stop_string(text):
    """Two characters from the middle that occur nowhere before."""
    for at in range(2, len(text) - 2):
        piece = text[at:at + 2]
        if "\ufffd" not in piece and text.find(piece) == at:
            return piece, text[:at]
    pytest.skip("the answer has no piece that could stop it")


def test_stop(client):
    text = ask(client, temperature=0, max_tokens=40, extra_body=LONG).choices[0].message.content
    piece, before = stop_string(text)
    stopped = ask(client, temperature=0, max_tokens=40, stop=[piece, "never in it"], extra_body=LONG).choices[0]
    assert stopped.message.content == before and stopped.finish_reason == "stop" and stopped.stop_reason == piece
    kept = ask(client, temperature=0, max_tokens=40, stop=piece,
               extra_body=LONG | {"include_stop_str_in_output": True}).choices[0]
    assert kept.message.content == before + piece
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in
                       ask(client, temperature=0, max_tokens=40, stop=piece, stream=True, extra_body=LONG))
    assert streamed == before


def test_stop_token(client):
    entries = ask(client, temperature=0, max_tokens=20, logprobs=True, extra_body=LONG | {
        "return_tokens_as_token_ids": True}).choices[0].logprobs.content
    token = int(entries[5].token.split(":")[1])
    first = [entry.token for entry in entries].index(f"token_id:{token}")
    answer = ask(client, temperature=0, max_tokens=20, extra_body=LONG | {"stop_token_ids": [token]})
    assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens == first + 1
    assert answer.choices[0].stop_reason == token


@pytest.mark.parametrize("text, is_end", [("<|endoftext|>", True), ("<|user|>", False)])
def test_end_of_text_is_no_stop_reason(client, served, text, is_end):
    """As in vLLM: null for the tokenizer's eos_token, the id for the other ids of generation_config."""
    [token] = served.post("/tokenize", {"model": MODEL, "prompt": text, "add_special_tokens": False}).json()["tokens"]
    answer = ask(client, temperature=0, logit_bias={str(token): 100}, extra_body={"repetition_penalty": 1.0})
    assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens == 1
    assert answer.choices[0].stop_reason == (None if is_end else token)


def test_seed(client):
    def text(seed):
        return ask(client, temperature=1.0, top_p=1.0, seed=seed, max_tokens=24,
                   extra_body=LONG | {"top_k": -1}).choices[0].message.content

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_logit_bias_and_allowed(client):
    forced = ask(client, temperature=0, max_tokens=5, logit_bias={"65": 100}, extra_body=LONG)
    same = ask(client, temperature=0, max_tokens=5, extra_body=LONG | {"allowed_token_ids": [65]})
    assert forced.choices[0].message.content == same.choices[0].message.content
    assert len(set(forced.choices[0].message.content)) == 1


def test_penalty_changes_greedy(client):
    """Greedy is arg-max after the penalties: a large one must end a repetition."""
    plain = ask(client, temperature=0, max_tokens=40, logprobs=True, extra_body=LONG).choices[0].logprobs.content
    other = ask(client, temperature=0, max_tokens=40, logprobs=True, frequency_penalty=2.0,
                extra_body=LONG).choices[0].logprobs.content
    assert len({e.token for e in other}) >= len({e.token for e in plain})


@pytest.mark.parametrize("kind,mime,options", [
    ("PNG", "image/png", {}), ("JPEG", "image/jpeg", {"quality": 90}), ("JPEG", "image/jpeg", {"progressive": True}),
    ("WEBP", "image/webp", {"quality": 65}), ("WEBP", "image/webp", {"lossless": True})])
def test_images(client, kind, mime, options):
    content = [image_part(encode(screen(), kind, **options), mime), text_part("What is this?")]
    answer = ask(client, content, temperature=0)
    text_only = ask(client, [text_part("What is this?")], temperature=0)
    assert answer.usage.prompt_tokens - text_only.usage.prompt_tokens >= 28  # 112 x 196 pixels at least
    assert answer.choices[0].finish_reason in ("stop", "length")


def test_same_pixels_same_answer(client):
    """PNG and lossless WebP hold the same pixels."""
    texts = {ask(client, [image_part(encode(screen(), kind, **options), "image/png"), text_part("?")], temperature=0,
                 extra_body=LONG).choices[0].message.content
             for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}))}
    assert len(texts) == 1


def test_image_changes_answer_probabilities(client):
    def first(seed):
        content = [image_part(encode(screen(seed=seed))), text_part("?")]
        return ask(client, content, temperature=0, logprobs=True, max_tokens=1, extra_body=LONG).choices[0].logprobs.content[0]

    assert first(0).logprob == first(0).logprob
    assert first(0).logprob != first(150).logprob


@pytest.mark.parametrize("fields,error", [
    ({"model": "gpt-4"}, openai.NotFoundError),
    ({"temperature": -1}, openai.BadRequestError),
    ({"top_p": 0}, openai.BadRequestError),
    ({"top_p": 1.5}, openai.BadRequestError),
    ({"n": 0}, openai.BadRequestError),
    ({"max_tokens": -1}, openai.BadRequestError),
    ({"presence_penalty": 3}, openai.BadRequestError),
    ({"top_logprobs": 50, "logprobs": True}, openai.BadRequestError),
    ({"messages": []}, openai.BadRequestError),
    ({"messages": [{"role": "user", "content": "word " * 60000}]}, openai.BadRequestError),
])
def test_errors_are_typed(client, fields, error):
    request = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2} | fields
    with pytest.raises(error) as caught:
        client.chat.completions.create(**request)
    assert caught.value.status_code == caught.value.body["code"] and caught.value.body["message"]


def test_context_error_names_both_numbers(client):
    with pytest.raises(openai.BadRequestError, match="maximum context length") as caught:
        ask(client, "word " * 60000)
    assert sum(part.isdigit() for part in caught.value.body["message"].replace(",", " ").replace(".", " ").split()) >= 2


def test_completions(client):
    answer = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=5, temperature=0, extra_body=LONG)
    assert answer.id.startswith("cmpl-") and answer.object == "text_completion"
    assert answer.usage.completion_tokens == 5 and answer.choices[0].finish_reason == "length"
    echoed = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=5, temperature=0, echo=True,
                                       extra_body=LONG)
    assert echoed.choices[0].text == "Once upon" + answer.choices[0].text
    streamed = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=5, temperature=0, stream=True,
                                         extra_body=LONG)
    assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text


def test_completions_default_length(client):
    assert client.completions.create(model=MODEL, prompt="Once", extra_body=LONG).usage.completion_tokens == 16


def test_completions_logprobs_and_echo(client):
    answer = client.completions.create(model=MODEL, prompt="Once", max_tokens=4, temperature=0, logprobs=3, echo=True,
                                       extra_body=LONG)
    found = answer.choices[0].logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.text_offset) == answer.usage.total_tokens
    assert found.token_logprobs[0] is None and all(value <= 1e-6 for value in found.token_logprobs[1:])
    assert found.text_offset == sorted(found.text_offset)


def test_completions_several_prompts(client):
    texts = ["One", "Two and more", "三"]
    together = client.completions.create(model=MODEL, prompt=texts, max_tokens=6, temperature=0, extra_body=LONG)
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    for text, choice in zip(texts, together.choices):
        alone = client.completions.create(model=MODEL, prompt=text, max_tokens=6, temperature=0, extra_body=LONG)
        assert alone.choices[0].text == choice.text


def test_completions_of_tokens(client, served):
    tokens = served.post("/tokenize", {"model": MODEL, "prompt": "Once upon", "add_special_tokens": True}).json()["tokens"]
    by_tokens = client.completions.create(model=MODEL, prompt=tokens, max_tokens=5, temperature=0, extra_body=LONG)
    by_text = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=5, temperature=0, extra_body=LONG)
    assert by_tokens.choices[0].text == by_text.choices[0].text
    assert by_tokens.usage.prompt_tokens == by_text.usage.prompt_tokens == len(tokens)


def test_tokenize_and_back(served):
    text = "Hello 你好 🙂"
    found = served.post("/tokenize", {"model": MODEL, "prompt": text, "add_special_tokens": False}).json()
    assert found["count"] == len(found["tokens"]) and found["max_model_len"] > 0
    assert served.post("/detokenize", {"model": MODEL, "tokens": found["tokens"]}).json()["prompt"] == text
    messages = [{"role": "user", "content": text}]
    chat = served.post("/tokenize", {"model": MODEL, "messages": messages}).json()
    answer = served.chat(messages, max_tokens=1).json()
    assert chat["count"] == answer["usage"]["prompt_tokens"]


def test_request_id_header(client):
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=[{"role": "user", "content": "Hi"}], max_tokens=2, extra_headers={"X-Request-Id": "mine-1"})
    assert raw.headers["x-request-id"] == "mine-1" or raw.headers["x-request-id"]


def test_raw_stream_is_well_formed(served):
    import httpx

    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": True}
    with httpx.stream("POST", served.base + "/chat/completions", json=body, timeout=60) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no" and response.headers["cache-control"] == "no-cache"
        raw = "".join(response.iter_text())
    lines = raw.split("\n\n")
    assert lines[-1] == "" and lines[-2] == "data: [DONE]"
    assert all(line.startswith("data: ") or line.startswith(":") for line in lines[:-1])
