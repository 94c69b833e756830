// Package proxyproto reads how a proxy that passes on bytes says for whom it
// connects: HAProxy's PROXY protocol, version 1 (a line) and 2 (binary), as its
// specification has them, and strictly: what is told before a connection's first
// byte decides whom all of it is counted against. It knows nothing of sockets, of
// who may speak it, and of what follows.
//
//	v1  "PROXY TCP4 SRC DST SPORT DPORT\r\n", TCP6 alike, or "PROXY UNKNOWN…\r\n"; 107 bytes at most
//	v2  12 bytes of signature, version and command, family and protocol, length (2),
//	    addresses by family, then type, length (2) and value of extensions to the length's end
//
// Nothing is guessed: a byte that cannot begin or continue a header is an error
// at once. Extensions are stepped over, but for a checksum, which must be right.
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"strconv"
	"strings"
)

const (
	// Max is the largest header that is read. Senders are to stay below 536 bytes
	// where they have certificates to tell of, below 232 otherwise.
	Max = 4096
	// maxLine is version 1's longest, its end included.
	maxLine = 107
)

// Header is what a proxy says.
type Header struct {
	// Version is 1 or 2.
	Version int
	// Client is who has connected to the proxy. Not valid: it connects on its own
	// account (LOCAL), or does not know, or for a client without an address; whom
	// the connection comes from is the proxy then.
	Client netip.AddrPort
}

// What can be wrong with a header.
var (
	ErrNone     = errors.New("no PROXY header: the connection begins otherwise")
	ErrLine     = errors.New("malformed PROXY line")
	ErrLong     = errors.New("the PROXY header is too long")
	ErrVersion  = errors.New("unknown version of the PROXY protocol")
	ErrCommand  = errors.New("unknown command in the PROXY header")
	ErrFamily   = errors.New("unknown address family or transport in the PROXY header")
	ErrShort    = errors.New("the PROXY header has no room for its addresses")
	ErrTLV      = errors.New("malformed extension in the PROXY header")
	ErrChecksum = errors.New("wrong checksum of the PROXY header")
)

const (
	line      = "PROXY "
	signature = "\r\n\r\n\x00\r\nQUIT\n"
	fixed     = len(signature) + 4
)

// Parse reads a header at the beginning of p, and says how long it is; 0: more
// bytes are needed, and all of p belong to it.
func Parse(p []byte) (h Header, length int, err error) {
	switch {
	case begins(p, line):
		return parseLine(p)
	case begins(p, signature):
		return parseBinary(p)
	}
	return Header{}, 0, ErrNone
}

// begins says whether p begins with word, or may when there is more of it.
func begins(p []byte, word string) bool {
	n := min(len(p), len(word))
	return string(p[:n]) == word[:n]
}

func parseLine(p []byte) (Header, int, error) {
	p = p[:min(len(p), maxLine)]
	end := bytes.IndexByte(p, '\r')
	switch {
	case bytes.IndexByte(p[:max(end, 0)], '\n') >= 0, end < 0 && bytes.IndexByte(p, '\n') >= 0:
		return Header{}, 0, ErrLine
	case end < 0 || end+1 == len(p):
		if len(p) == maxLine {
			return Header{}, 0, ErrLong
		}
		return Header{}, 0, nil
	case p[end+1] != '\n', end < len(line):
		return Header{}, 0, ErrLine
	}
	h := Header{Version: 1}
	text := string(p[len(line):end])
	if text == "UNKNOWN" || strings.HasPrefix(text, "UNKNOWN ") {
		return h, end + 2, nil
	}
	var ok bool
	if h.Client, ok = parseWords(strings.Split(text, " ")); !ok {
		return Header{}, 0, ErrLine
	}
	return h, end + 2, nil
}

// parseWords reads family, two addresses and two ports.
func parseWords(words []string) (client netip.AddrPort, ok bool) {
	if len(words) != 5 {
		return client, false
	}
	from, ok1 := parseAddr(words[0], words[1])
	_, ok2 := parseAddr(words[0], words[2])
	port, ok3 := parsePort(words[3])
	_, ok4 := parsePort(words[4])
	return netip.AddrPortFrom(from, port), ok1 && ok2 && ok3 && ok4
}

func parseAddr(family, text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return addr, false
	}
	switch family {
	case "TCP4":
		return addr, addr.Is4()
	case "TCP6":
		return addr, addr.Is6() && !strings.ContainsAny(text, ".%")
	}
	return addr, false
}

func parsePort(text string) (uint16, bool) {
	n, err := strconv.ParseUint(text, 10, 16)
	return uint16(n), err == nil && strconv.FormatUint(n, 10) == text
}

// Lengths of addresses with their ports.
const (
	ipv4Length = 2*4 + 2*2
	ipv6Length = 2*16 + 2*2
	unixLength = 2 * 108
)

func parseBinary(p []byte) (Header, int, error) {
	h := Header{Version: 2}
	at := len(signature)
	if len(p) <= at {
		return Header{}, 0, nil
	}
	version, command := p[at]>>4, p[at]&15
	switch {
	case version != 2:
		return Header{}, 0, ErrVersion
	case command > 1:
		return Header{}, 0, ErrCommand
	case len(p) == at+1:
		return Header{}, 0, nil
	}
	family, transport := p[at+1]>>4, p[at+1]&15
	local := command == 0 // whose family is of no meaning
	if !local && (family > 3 || transport > 2) {
		return Header{}, 0, ErrFamily
	}
	if len(p) < fixed {
		return Header{}, 0, nil
	}
	length := fixed + int(binary.BigEndian.Uint16(p[fixed-2:]))
	if length > Max {
		return Header{}, 0, ErrLong
	}
	addresses := [...]int{0, ipv4Length, ipv6Length, unixLength}[family%4]
	known := !local && family > 0 && transport > 0
	if known && length < fixed+addresses {
		return Header{}, 0, ErrShort
	}
	if len(p) < length {
		return Header{}, 0, nil
	}
	if !known {
		return h, length, nil // where its addresses end nobody says
	}
	block := p[fixed:]
	switch addresses {
	case ipv4Length:
		h.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte(block)), binary.BigEndian.Uint16(block[8:]))
	case ipv6Length:
		h.Client = netip.AddrPortFrom(netip.AddrFrom16([16]byte(block)), binary.BigEndian.Uint16(block[32:]))
	}
	if err := checkTLVs(p[:length], fixed+addresses); err != nil {
		return Header{}, 0, err
	}
	return h, length, nil
}

// The one type of extension that means something to us.
const (
	typeCRC32C   = 3
	tlvHead      = 3
	crc32CLength = 4
)

// checkTLVs steps over the extensions of a header, from there on.
func checkTLVs(header []byte, from int) error {
	checked := false
	for at := from; at < len(header); {
		if len(header)-at < tlvHead {
			return ErrTLV
		}
		value := at + tlvHead
		next := value + int(binary.BigEndian.Uint16(header[at+1:]))
		if next > len(header) {
			return ErrTLV
		}
		if header[at] == typeCRC32C {
			if next-value != crc32CLength || checked {
				return ErrTLV
			}
			if checksum(header, value) != binary.BigEndian.Uint32(header[value:]) {
				return ErrChecksum
			}
			checked = true
		}
		at = next
	}
	return nil
}

// checksum is that of a header in which the four bytes at that place are zero.
func checksum(header []byte, place int) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // made once
	sum := crc32.Update(0, table, header[:place])
	sum = crc32.Update(sum, table, make([]byte, crc32CLength))
	return crc32.Update(sum, table, header[place+crc32CLength:])
}
