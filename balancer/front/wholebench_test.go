package front_test

import (
	"bytes"
	"net"
	"testing"
)

// BenchmarkMachine is a small request through front, balancer, pool and
// transport, over loopback.
func BenchmarkMachine(b *testing.B) {
	answer := append([]byte("HTTP/1.1 200 OK\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\nServer: uvicorn\r\nContent-Type: application/json\r\nContent-Length: 1024\r\n\r\n"), make([]byte, 1024)...)
	m := start(b, func(c net.Conn) {
		buf, got := make([]byte, 4<<10), 0
		for {
			n, err := c.Read(buf[got:])
			if err != nil {
				return
			}
			got += n
			if !bytes.HasSuffix(buf[:got], []byte("body")) {
				continue
			}
			got = 0
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
	c, in := m.dial(b)
	request := []byte("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nAuthorization: Bearer x\r\nUser-Agent: bench\r\nContent-Length: 4\r\n\r\nbody")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		skipAnswer(b, in)
		<-m.records
	}
}
