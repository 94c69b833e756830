package rawconn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
)

// splicePairs are sources and destinations.
var splicePairs = [][2]string{{"tcp", "tcp"}, {"unix", "tcp"}, {"tcp", "unix"}, {"unix", "unix"}}

func TestSpliceMovesExactly(t *testing.T) {
	for _, p := range splicePairs {
		t.Run(p[0]+" to "+p[1], func(t *testing.T) {
			src, srcPeer := pair(t, p[0])
			dst, dstPeer := pair(t, p[1])
			sent := randomBytes(3 << 20)
			const most = 2<<20 + 17
			go srcPeer.Write(sent)
			received := make(chan []byte)
			go func() {
				p, _ := io.ReadAll(dstPeer)
				received <- p
			}()
			// splice itself, as Splice would hide that the kernel refused.
			if n, err := dst.splice(src, most); n != most || err != nil {
				t.Fatalf("splice = %d, %v", n, err)
			}
			rest := make([]byte, len(sent)-most)
			if _, err := io.ReadFull(src, rest); err != nil || !bytes.Equal(rest, sent[most:]) {
				t.Errorf("the rest was not left untouched: %v", err)
			}
			dst.CloseWrite()
			if !bytes.Equal(<-received, sent[:most]) {
				t.Error("what arrived differs")
			}
		})
	}
}

func TestSplicePassesOnWhatIsThere(t *testing.T) {
	for _, p := range splicePairs {
		t.Run(p[0]+" to "+p[1], func(t *testing.T) {
			src, srcPeer := pair(t, p[0])
			dst, dstPeer := pair(t, p[1])
			type result struct {
				n   int64
				err error
			}
			done := make(chan result)
			go func() {
				n, err := dst.Splice(src, 1<<20)
				done <- result{n, err}
			}()
			for _, word := range []string{"first", "second"} {
				srcPeer.Write([]byte(word))
				got := make([]byte, len(word))
				if _, err := io.ReadFull(dstPeer, got); err != nil || string(got) != word {
					t.Fatalf("%q arrived: %v", got, err)
				}
			}
			srcPeer.Close()
			if r := <-done; r.n != 11 || r.err != nil {
				t.Errorf("Splice up to the end = %d, %v", r.n, r.err)
			}
		})
	}
}

func TestSpliceTellsWhoFailed(t *testing.T) {
	t.Run("source reset", func(t *testing.T) {
		src, srcPeer := pair(t, "tcp")
		dst, _ := pair(t, "tcp")
		srcPeer.(*net.TCPConn).SetLinger(0)
		srcPeer.Close()
		_, err := dst.Splice(src, 100)
		if _, ok := errors.AsType[*SourceError](err); !ok {
			t.Errorf("Splice = %v, want a SourceError", err)
		}
	})
	t.Run("destination gone", func(t *testing.T) {
		src, srcPeer := pair(t, "unix")
		dst, dstPeer := pair(t, "tcp")
		dstPeer.(*net.TCPConn).SetLinger(0)
		dstPeer.Close()
		srcPeer.Write([]byte("x"))
		srcPeer.Close()
		_, err := dst.Splice(src, 100)
		if _, ok := errors.AsType[*SourceError](err); err == nil || ok {
			t.Errorf("Splice = %v, want an error of the destination", err)
		}
	})
	t.Run("source aborted", func(t *testing.T) {
		src, _ := pair(t, "tcp")
		dst, _ := pair(t, "tcp")
		src.Abort()
		if n, err := dst.Splice(src, 100); n != 0 || err != nil {
			t.Errorf("Splice = %d, %v, want the end", n, err)
		}
	})
}

func TestIOCopySplices(t *testing.T) {
	src, srcPeer := pair(t, "tcp")
	dst, dstPeer := pair(t, "tcp")
	srcPeer.Write([]byte("0123456789"))
	limited := &io.LimitedReader{R: src, N: 4}
	if n, err := io.Copy(dst, limited); n != 4 || err != nil || limited.N != 0 {
		t.Errorf("of a LimitedReader: %d, %v, %d left", n, err, limited.N)
	}
	srcPeer.Close()
	if n, err := io.Copy(dst, src); n != 6 || err != nil {
		t.Errorf("of a Conn: %d, %v", n, err)
	}
	if n, err := io.Copy(dst, bytes.NewBufferString("abc")); n != 3 || err != nil {
		t.Errorf("of another reader: %d, %v", n, err)
	}
	dst.Close()
	if got, _ := io.ReadAll(dstPeer); string(got) != "0123456789abc" {
		t.Errorf("%q arrived", got)
	}
}

func TestCopy(t *testing.T) {
	src, srcPeer := pair(t, "unix")
	sent := randomBytes(1 << 20)
	go func() {
		srcPeer.Write(sent)
		srcPeer.Close()
	}()
	var got bytes.Buffer
	if n, err := Copy(&got, src, 1000); n != 1000 || err != nil {
		t.Errorf("Copy = %d, %v", n, err)
	}
	if n, err := Copy(&got, src, 1<<30); n != int64(len(sent)-1000) || err != nil {
		t.Errorf("Copy up to the end = %d, %v", n, err)
	}
	if !bytes.Equal(got.Bytes(), sent) {
		t.Error("what arrived differs")
	}
	src.Close()
	_, err := Copy(&got, src, 1)
	if _, ok := errors.AsType[*SourceError](err); !ok {
		t.Errorf("Copy from a closed connection: %v", err)
	}
}

func BenchmarkSplice(b *testing.B) {
	src, srcPeer := pair(b, "unix")
	dst, dstPeer := pair(b, "tcp")
	go io.Copy(io.Discard, dstPeer)
	go func() {
		chunk := make([]byte, 1<<20)
		for {
			if _, err := srcPeer.Write(chunk); err != nil {
				return
			}
		}
	}()
	b.SetBytes(1 << 20)
	for b.Loop() {
		if _, err := dst.Splice(src, 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}
