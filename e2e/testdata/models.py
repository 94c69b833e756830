"""Lists the models, and asks for one that there is not: prints what the client
makes of both, one line each."""

import sys

from openai import NotFoundError, OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
print(" ".join(sorted(model.id for model in client.models.list())))
try:
    client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])
except NotFoundError as e:
    print("true", e.status_code, e.type, e.param, e.code, e.body["message"])
