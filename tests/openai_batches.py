"""Runs a batch through the official client, and fails with an assertion where it disappoints.

Usage: openai_batches.py http://127.0.0.1:8000/v1
"""

import io
import json
import sys
import time

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0, timeout=60)
model = client.models.list().data[0].id


def line(name, **body):
    body = {"model": model, "max_tokens": 6, "seed": 1} | body
    url = "/v1/chat/completions"
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body})


def expect(error, part, call):
    try:
        call()
    except error as refused:
        assert part in str(refused), refused
    else:
        raise AssertionError(f"expected {error.__name__} about {part}")


def run(lines):
    content = io.BytesIO("\n".join(lines).encode())
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    assert file.purpose == "batch" and file.bytes == len(content.getvalue())
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"who": "a test"},
    )
    assert batch.status == "validating" and batch.metadata == {"who": "a test"}
    end = time.monotonic() + 60
    while batch.status in ("validating", "in_progress", "finalizing"):
        assert time.monotonic() < end, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return file, batch


def content(file):
    return [json.loads(line) for line in client.files.content(file).text.splitlines()]


messages = [{"role": "user", "content": "Hello!"}]
names = [f"request-{number}" for number in range(5)]
lines = [line(name, messages=messages) for name in names] + [line("bad", messages="none")]
file, batch = run(lines)
assert batch.status == "completed" and batch.completed_at, batch
counts = batch.request_counts
assert (counts.total, counts.completed, counts.failed) == (6, 5, 1), counts
answers = content(batch.output_file_id)
assert sorted(answer["custom_id"] for answer in answers) == names
direct = client.chat.completions.create(model=model, messages=messages, max_tokens=6, seed=1)
for answer in answers:
    assert answer["error"] is None and answer["response"]["status_code"] == 200
    body = openai.types.chat.ChatCompletion.model_validate(answer["response"]["body"])
    assert body.choices[0].message.content == direct.choices[0].message.content
(error,) = content(batch.error_file_id)
assert (error["custom_id"], error["response"]["status_code"]) == ("bad", 400)
assert error["response"]["body"]["error"]["param"] == "messages"

# A file that can't be run.
_, failed = run([line("a", messages=messages), line("a", messages=messages), "{"])
assert failed.status == "failed" and failed.output_file_id is None
codes = [(problem.code, problem.line) for problem in failed.errors.data]
assert codes == [("duplicate_custom_id", 2), ("invalid_json_line", 3)], codes

# Lists go through all pages; what is deleted is gone.
assert [known.id for known in client.batches.list(limit=1)] == [failed.id, batch.id]
assert file.id in [known.id for known in client.files.list(purpose="batch", limit=1)]
assert client.files.retrieve(file.id).filename == "requests.jsonl"
assert client.files.delete(file.id).deleted
expect(openai.NotFoundError, file.id, lambda: client.files.retrieve(file.id))
expect(openai.ConflictError, "completed", lambda: client.batches.cancel(batch.id))
print("ok")
