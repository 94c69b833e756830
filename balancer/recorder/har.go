package recorder

import (
	"net/url"
	"strings"
	"time"
)

// HAR is exchanges as an HTTP archive, version 1.2, which browsers' tools read.
func HAR(version string, all []Exchange) map[string]any {
	entries := make([]any, len(all))
	for i := range all {
		entries[i] = all[i].harEntry()
	}
	return map[string]any{"log": map[string]any{
		"version": "1.2",
		"creator": map[string]any{"name": "stoker", "version": version},
		"entries": entries,
	}}
}

func (x *Exchange) harEntry() map[string]any {
	wait, receive := x.timings()
	return map[string]any{
		"startedDateTime": x.Start.Format(time.RFC3339Nano),
		"time":            wait + receive,
		"request":         x.Request.har(),
		"response":        x.harResponse(),
		"cache":           map[string]any{},
		"timings":         map[string]any{"send": 0, "wait": wait, "receive": receive},
		"serverIPAddress": "",
		"connection":      x.Worker,
		"comment":         strings.TrimSpace(x.Outcome + " " + x.Error),
		"_id":             x.ID,
	}
}

// timings are in milliseconds: to the answer's head, and from there to its end.
func (x *Exchange) timings() (wait, receive float64) {
	ms := func(d time.Duration) float64 { return max(float64(d.Microseconds())/1000, 0) }
	switch {
	case x.First == nil && x.End == nil:
		return 0, 0
	case x.First == nil:
		return ms(x.End.Sub(x.Start)), 0
	case x.End == nil:
		return ms(x.First.Sub(x.Start)), 0
	}
	return ms(x.First.Sub(x.Start)), ms(x.End.Sub(*x.First))
}

func (q *Request) har() map[string]any {
	query := []any{}
	if _, raw, ok := strings.Cut(q.Target, "?"); ok {
		for pair := range strings.SplitSeq(raw, "&") {
			name, value, _ := strings.Cut(pair, "=")
			query = append(query, map[string]any{"name": unescape(name), "value": unescape(value)})
		}
	}
	h := map[string]any{
		"method": q.Method, "url": q.Scheme + "://" + q.Authority + q.Target, "httpVersion": q.Proto,
		"cookies": []any{}, "headers": harFields(q.Fields), "queryString": query, "headersSize": -1, "bodySize": q.Body.Size,
	}
	if q.Body.Size > 0 {
		post := q.Body.har(mimeType(q.Fields))
		post["params"] = []any{}
		h["postData"] = post
	}
	return h
}

func unescape(s string) string {
	if plain, err := url.QueryUnescape(s); err == nil {
		return plain
	}
	return s
}

func (x *Exchange) harResponse() map[string]any {
	r := x.Response
	if r == nil { // status 0 is how browsers write that there was none
		r = &Response{Fields: []Field{}}
	}
	content := r.Body.har(mimeType(r.Fields))
	content["size"] = r.Body.Size
	return map[string]any{
		"status": r.Status, "statusText": "", "httpVersion": "HTTP/1.1", "cookies": []any{}, "headers": harFields(r.Fields),
		"content": content, "redirectURL": "", "headersSize": -1, "bodySize": r.Body.Size,
	}
}

// har is what was kept, with a note of what was not.
func (b *Body) har(mime string) map[string]any {
	h := map[string]any{"mimeType": mime, "text": b.Head + b.Tail}
	if b.Base64 {
		content, _ := b.Bytes()
		h["text"], h["encoding"] = encode(content), "base64"
	}
	if b.Omitted > 0 {
		h["comment"] = "not whole: some bytes between head and tail were not kept"
	}
	return h
}

func harFields(fields []Field) []any {
	all := make([]any, len(fields))
	for i, f := range fields {
		all[i] = map[string]any{"name": f.Name, "value": f.Value}
	}
	return all
}

func mimeType(fields []Field) string {
	for _, f := range fields {
		if strings.EqualFold(f.Name, "content-type") {
			return f.Value
		}
	}
	return ""
}
