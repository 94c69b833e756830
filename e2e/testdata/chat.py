"""Streams one chat completion and prints what each chunk says, one line each,
but for what names the run: id and time."""

import json
import os
import ssl
import sys

from openai import DefaultHttpxClient, OpenAI

# Whom to trust comes as text: this Python may not see the test's files.
trusted = os.environ.get("CHAT_CA")
http_client = DefaultHttpxClient(verify=ssl.create_default_context(cadata=trusted)) if trusted else None
client = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, http_client=http_client)
stream = client.chat.completions.create(
    model="any",
    messages=[{"role": "user", "content": "Tell me of fire."}],
    temperature=0,
    seed=7,
    max_tokens=32,
    extra_body={"cache_prompt": False},
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    usage = chunk.usage and [chunk.usage.prompt_tokens, chunk.usage.completion_tokens]
    print(json.dumps([chunk.object, chunk.model, [c.model_dump() for c in chunk.choices], usage]))
