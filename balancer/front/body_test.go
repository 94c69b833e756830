package front

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

func TestUploadIsStreamed(t *testing.T) {
	first := make(chan string, 1)
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		buf := make([]byte, 1)
		_, _ = x.Body.Read(buf)
		first <- string(buf)
		rest, _ := io.ReadAll(x.Body)
		respond(x, 200, string(rest))
	})
	t.Run("http/1.1", func(t *testing.T) {
		c := fx.dial(t)
		c.send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\na")
		if got := wait(t, first, "first byte"); got != "a" {
			t.Fatalf("first byte %q", got)
		}
		c.send(t, "bcd")
		if _, body := c.answer(t, "POST"); body != "bcd" {
			t.Errorf("rest %q", body)
		}
		if rec := wait(t, fx.records, "record"); rec.BytesIn != 4 {
			t.Errorf("%d bytes in", rec.BytesIn)
		}
	})
	t.Run("http/2", func(t *testing.T) {
		r, w := io.Pipe()
		go func() {
			_, _ = io.WriteString(w, "a")
			<-first
			_, _ = io.WriteString(w, "bcd")
			_ = w.Close()
		}()
		resp, err := http2Client(t).Post("http://"+fx.addr, "text/plain", r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); string(body) != "bcd" {
			t.Errorf("rest %q", body)
		}
	})
}

func TestExpectContinueIsAnsweredWhenTheBodyIsWanted(t *testing.T) {
	fx := start(t, echo)
	c := fx.dial(t)
	c.send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
	if r, _ := c.answer(t, "POST"); r.StatusCode != http.StatusContinue {
		t.Fatalf("got %d, want 100", r.StatusCode)
	}
	c.send(t, "abc")
	if _, body := c.answer(t, "POST"); !strings.HasSuffix(body, "abc []") {
		t.Errorf("got %q", body)
	}
}

func TestMalformedBodyIsTheClientsFault(t *testing.T) {
	for name, chunk := range map[string]string{
		"no number": "xyz\r\n", "sign": "-1\r\n", "overflow": "fffffffffffffffff\r\n", "no line end after data": "1\r\naXX",
	} {
		t.Run(name, func(t *testing.T) {
			failed := make(chan error, 1)
			fx := start(t, func(_ context.Context, x *exchange.Exchange) {
				_, err := io.ReadAll(x.Body)
				failed <- err
				respond(x, 400, "no")
			})
			c := fx.dial(t)
			c.send(t, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+chunk+"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
			r, _ := c.answer(t, "POST")
			if r.StatusCode != http.StatusBadRequest || !r.Close {
				t.Errorf("got %d, close %v", r.StatusCode, r.Close)
			}
			c.closed(t)
			if err := wait(t, failed, "body error"); err == nil || errors.Is(err, exchange.ErrClientGone) {
				t.Errorf("body read gave %v", err)
			}
			wait(t, fx.records, "the request")
			if len(fx.records) != 0 {
				t.Error("the rest of the body was taken for a request")
			}
		})
	}
}

// The handler answers before it has read the body.
func TestAnswerBeforeTheBodysEnd(t *testing.T) {
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		if x.Request.Target == "/chunked" {
			_ = x.Sink.Head(&http1.Response{Status: 200}, -1)
			_, _ = x.Sink.Write([]byte("early"))
			_ = x.Sink.End(nil)
			return
		}
		if x.Request.Target == "/interrupted" {
			_, _ = x.Body.Read(make([]byte, 2))
			x.Body.(interface{ Interrupt() }).Interrupt()
			_, _ = x.Body.Read(make([]byte, 2))
		}
		respond(x, 413, "early")
	})
	const post = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: "
	t.Run("a small body that has come costs nothing", func(t *testing.T) {
		c := fx.dial(t)
		for range 3 {
			c.send(t, post+"5\r\n\r\nGET /")
			if r, body := c.answer(t, "POST"); body != "early" || r.Close {
				t.Fatalf("got %q, close %v", body, r.Close)
			}
		}
	})
	t.Run("the chunked end is still there", func(t *testing.T) {
		c := fx.dial(t)
		for range 3 {
			c.send(t, "POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
			if _, body := c.answer(t, "POST"); body != "early" {
				t.Fatalf("got %q", body)
			}
		}
	})
	t.Run("who had begun to read and was interrupted leaves the connection as it is", func(t *testing.T) {
		c := fx.dial(t)
		for range 3 {
			c.send(t, strings.Replace(post, "/x", "/interrupted", 1)+"5\r\n\r\nGET /")
			if r, body := c.answer(t, "POST"); body != "early" || r.Close {
				t.Fatalf("got %q, close %v", body, r.Close)
			}
		}
	})
	for _, target := range []string{"/x", "/chunked"} {
		t.Run("a body that never comes ends the connection "+target, func(t *testing.T) {
			for len(fx.records) > 0 {
				<-fx.records
			}
			c := fx.dial(t)
			// What came looks like a request, and must not be taken for one.
			c.send(t, strings.Replace(post, "/x", target, 1)+"1000\r\n\r\n"+get("/smuggled"))
			if _, body := c.answer(t, "POST"); body != "early" {
				t.Fatalf("got %q", body)
			}
			_, _ = io.WriteString(c, get("/smuggled")) // it may be closed already
			c.closed(t)
			wait(t, fx.records, "the request")
			if len(fx.records) != 0 {
				t.Error("the body was taken for a request")
			}
		})
	}
	t.Run("a small body that comes slowly", func(t *testing.T) {
		for {
			c := fx.dial(t)
			c.send(t, post+"10\r\n\r\nGET /")
			if r, body := c.answer(t, "POST"); body != "early" || r.Close {
				t.Fatalf("got %q, close %v", body, r.Close)
			}
			began := time.Now()
			time.Sleep(200 * time.Millisecond) // a line that takes as long
			c.send(t, "GET /"+post+"5\r\n\r\nGET /")
			if time.Since(began) > time.Second {
				continue // of a machine as slow as that nothing can be said
			}
			if r, body := c.answer(t, "POST"); body != "early" || r.Close {
				t.Fatalf("got %q, close %v", body, r.Close)
			}
			return
		}
	})
	t.Run("a client that sends a large body still reads the answer", func(t *testing.T) {
		c := fx.dial(t)
		_ = c.Conn.(*net.TCPConn).SetWriteBuffer(64 << 10) // nothing is sent before it is read
		c.send(t, post+"4000000\r\n\r\n")
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 4_000_000))
			sent <- err
		}()
		// It reads only when it has sent all, as many clients do.
		if err := wait(t, sent, "upload"); err != nil {
			t.Fatalf("upload: %v", err)
		}
		if _, body := c.answer(t, "POST"); body != "early" {
			t.Errorf("got %q", body)
		}
	})
}
