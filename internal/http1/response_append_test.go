package http1

import "testing"

func TestAppendResponse(t *testing.T) {
	tests := []struct {
		name string
		r    Response
		own  string
		want string
	}{
		{"plain", Response{Status: 200, Reason: "Fine"}, "Content-Length: 0\r\n", "HTTP/1.1 200 Fine\r\nContent-Length: 0\r\n\r\n"},
		{"usual reason", Response{Status: 404}, "", "HTTP/1.1 404 Not Found\r\n\r\n"},
		{"no usual reason", Response{Status: 599}, "", "HTTP/1.1 599 \r\n\r\n"},
		{"fields in order and spelling", Response{Status: 200, Fields: Fields{{"x-B", "2"}, {"A", ""}, {"x-b", "1"}}}, "", "HTTP/1.1 200 OK\r\nx-B: 2\r\nA: \r\nx-b: 1\r\n\r\n"},
		{
			"fields that are the connection's",
			Response{Status: 200, Fields: Fields{{"connection", "x"}, {"content-length", "5"}, {"X", "y"}, {"TRANSFER-ENCODING", "gzip"}}},
			"Transfer-Encoding: chunked\r\n", "HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := AppendResponse([]byte("before"), &test.r, []byte(test.own))
			if err != nil || string(got) != "before"+test.want {
				t.Errorf("got %q, %v\nwant %q", got, err, test.want)
			}
		})
	}
	for name, r := range map[string]Response{
		"status":    {Status: 1000},
		"reason":    {Status: 200, Reason: "OK\r\nX: y"},
		"bare CR":   {Status: 200, Fields: Fields{{"X", "a\rb"}}},
		"value":     {Status: 200, Fields: Fields{{"X", "a\r\nY: b"}}},
		"name, NUL": {Status: 200, Fields: Fields{{"X\x00", ""}}},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			if got, err := AppendResponse(nil, &r, nil); err == nil || len(got) != 0 {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}
