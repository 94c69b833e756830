package websocket

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
)

// frame makes one.
func frame(first byte, masked bool, payload int) []byte {
	var mask byte
	if masked {
		mask = 0x80
	}
	f := []byte{first}
	switch {
	case payload < 126:
		f = append(f, mask|byte(payload))
	case payload < 1<<16:
		f = binary.BigEndian.AppendUint16(append(f, mask|126), uint16(payload))
	default:
		f = binary.BigEndian.AppendUint64(append(f, mask|127), uint64(payload))
	}
	if masked {
		f = append(f, 1, 2, 3, 4)
	}
	return append(f, bytes.Repeat([]byte{0x88}, payload)...) // a payload that looks like frames
}

// The ends of frames are found wherever the bytes are cut.
func TestFramesEndWhereTheyDo(t *testing.T) {
	var stream []byte
	var ends []int
	for _, masked := range []bool{false, true} {
		for _, size := range []int{0, 1, 125, 126, 127, 65535, 65536, 70000} {
			stream = append(stream, frame(0x82, masked, size)...)
			ends = append(ends, len(stream))
		}
	}
	for _, piece := range []int{1, 2, 3, 7, 4096, 65536, len(stream)} {
		var f Frames
		var got []int
		for at := 0; at < len(stream); {
			n := f.Next(stream[at:min(at+piece, len(stream))])
			at += n
			if f.Between() {
				got = append(got, at)
			}
		}
		if !slices.Equal(got, ends) {
			t.Errorf("by %d: frames end at %d, want %d", piece, got, ends)
		}
		if f.Closed() {
			t.Errorf("by %d: closed by a payload", piece)
		}
	}
}

func TestFramesSkipped(t *testing.T) {
	var f Frames
	f.Follow(frame(0x82, false, 70000)[:20])
	if f.Left() != 70000-10 || f.Between() {
		t.Fatalf("%d left, between %v", f.Left(), f.Between())
	}
	f.Skip(f.Left())
	if f.Left() != 0 || !f.Between() {
		t.Fatalf("%d left, between %v", f.Left(), f.Between())
	}
}

func TestFramesClosed(t *testing.T) {
	for _, tc := range []struct {
		name string
		raw  []byte
		want bool
	}{
		{"nothing", nil, false},
		{"a ping", frame(0x89, true, 4), false},
		{"a Close", frame(0x88, false, 2), true},
		{"a Close without a code", frame(0x88, true, 0), true},
		{"a Close behind others", append(frame(0x81, true, 300), frame(0x88, true, 2)...), true},
		{"half a Close", frame(0x88, true, 2)[:7], false},
		{"a Close that does not say that it ends", frame(0x08, true, 2), true},
	} {
		var f Frames
		f.Follow(tc.raw)
		if f.Closed() != tc.want {
			t.Errorf("%s: %v", tc.name, f.Closed())
		}
	}
}

// A length that no frame can have means that nobody knows where the next begins.
func TestFramesLost(t *testing.T) {
	var f Frames
	f.Follow([]byte{0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 1, 0})
	if f.Between() {
		t.Error("between two frames")
	}
	f.Follow(frame(0x88, false, 2))
	if f.Between() || f.Closed() || f.Left() > 0 {
		t.Errorf("between %v, closed %v, left %d", f.Between(), f.Closed(), f.Left())
	}
}

func TestGoingAway(t *testing.T) {
	want := append([]byte{0x88, 5, 0x03, 0xe9}, "bye"...)
	if got := GoingAway("bye"); !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
	long := GoingAway(strings.Repeat("x", 500))
	var f Frames
	f.Follow(long)
	if len(long) != 127 || !f.Closed() || !f.Between() {
		t.Errorf("%d bytes, closed %v", len(long), f.Closed())
	}
}

// However the bytes are cut, what is known after them is the same.
func FuzzFrames(f *testing.F) {
	f.Add(frame(0x82, true, 200), uint8(3))
	f.Add(frame(0x88, false, 2), uint8(1))
	f.Add([]byte{0x82, 127, 0xff, 0, 0, 0, 0, 0, 0, 1, 0, 0x88, 0}, uint8(5))
	f.Fuzz(func(t *testing.T, raw []byte, piece uint8) {
		var whole, cut Frames
		whole.Follow(raw)
		for rest := raw; len(rest) > 0; {
			n := min(int(piece)+1, len(rest))
			cut.Follow(rest[:n])
			rest = rest[n:]
		}
		if whole != cut {
			t.Errorf("%+v in one piece, %+v in pieces of %d", whole, cut, int(piece)+1)
		}
		if whole.Left() < 0 && whole.Between() {
			t.Errorf("%+v", whole)
		}
	})
}
