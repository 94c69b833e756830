"""Streams a chat completion for each line of parameters that it reads, and
prints what came of it as a line: text, what names the run, roles, ends, usage, error."""

import json
import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=60)
for line in sys.stdin:
    text, names, roles, ends, usage, error = {}, set(), 0, [], None, ""
    try:
        for chunk in client.chat.completions.create(stream=True, **json.loads(line)):
            names.add(f"{chunk.id} {chunk.model} {chunk.object}")
            if chunk.usage:
                usage = [chunk.usage.prompt_tokens, chunk.usage.completion_tokens, chunk.usage.total_tokens]
            for c in chunk.choices:
                key = str(c.index)
                text[key] = text.get(key, "") + (c.delta.content or "")
                roles += bool(c.delta.role)
                for call in c.delta.tool_calls or []:
                    f = call.function
                    text[key] += f"<{call.index} {f and f.name or ''} {f and f.arguments or ''}>"
                if c.logprobs and c.logprobs.content:
                    text[key] += "".join(f"[{p.token} {p.logprob:.4f}]" for p in c.logprobs.content)
                if c.finish_reason:
                    ends.append(c.finish_reason)
    except Exception as e:
        error = type(e).__name__
    print(json.dumps({"text": text, "names": len(names), "roles": roles, "ends": ends, "usage": usage, "error": error}), flush=True)
