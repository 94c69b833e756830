package proxyproto

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

// v2 is a binary header: version and command, family and transport, and the rest
// in hexadecimal, spaces aside.
func v2(command, family byte, rest string) string {
	block, err := hex.DecodeString(strings.ReplaceAll(rest, " ", ""))
	if err != nil {
		panic(err)
	}
	h := append([]byte(signature), command, family)
	h = binary.BigEndian.AppendUint16(h, uint16(len(block)))
	return string(append(h, block...))
}

const (
	ip4 = "cb007107 c6336401 d431 01bb " // 203.0.113.7:54321 to 198.51.100.1:443
	ip6 = "20010db8000000000000000000000007 20010db8000000000000000000000001 d431 01bb "
)

var unix216 = strings.Repeat("2f", 216)

// cases are headers with what they mean. Those that are good are followed by
// something else in some tests.
var cases = []struct {
	name, raw, client string
	err               error
}{
	{"v1, IPv4", "PROXY TCP4 203.0.113.7 198.51.100.1 54321 443\r\n", "203.0.113.7:54321", nil},
	{"v1, the longest IPv4", "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255:65535", nil},
	{"v1, ports of 0", "PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", "0.0.0.0:0", nil},
	{"v1, IPv6", "PROXY TCP6 2001:db8::7 2001:db8::1 54321 443\r\n", "[2001:db8::7]:54321", nil},
	{"v1, IPv6 in capitals", "PROXY TCP6 2001:DB8::7 ::1 1 2\r\n", "[2001:db8::7]:1", nil},
	{"v1, the longest IPv6", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", nil},
	{"v1, unknown", "PROXY UNKNOWN\r\n", "", nil},
	{"v1, unknown with a rest", "PROXY UNKNOWN ffff::1 not an address 1 2\r\n", "", nil},
	{"v1, unknown, the longest", "PROXY UNKNOWN " + strings.Repeat("f", 91) + "\r\n", "", nil},
	{"v1, unknown, longer", "PROXY UNKNOWN " + strings.Repeat("f", 92) + "\r\n", "", ErrLong},
	{"v1, without an end", "PROXY TCP4 " + strings.Repeat("1", 200), "", ErrLong},
	{"v1, another family", "PROXY TCP5 203.0.113.7 198.51.100.1 1 2\r\n", "", ErrLine},
	{"v1, UDP", "PROXY UDP4 203.0.113.7 198.51.100.1 1 2\r\n", "", ErrLine},
	{"v1, a word that begins as one", "PROXY UNKNOWNS\r\n", "", ErrLine},
	{"v1, lower case", "proxy TCP4 203.0.113.7 198.51.100.1 1 2\r\n", "", ErrNone},
	{"v1, IPv4 said to be IPv6", "PROXY TCP6 203.0.113.7 198.51.100.1 1 2\r\n", "", ErrLine},
	{"v1, IPv6 said to be IPv4", "PROXY TCP4 ::1 ::1 1 2\r\n", "", ErrLine},
	{"v1, IPv4 in IPv6 with dots", "PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n", "", ErrLine},
	{"v1, a zone", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "", ErrLine},
	{"v1, one address bad", "PROXY TCP4 203.0.113.7 198.51.100.256 1 2\r\n", "", ErrLine},
	{"v1, three numbers", "PROXY TCP4 203.0.113 198.51.100.1 1 2\r\n", "", ErrLine},
	{"v1, a zero in front", "PROXY TCP4 203.0.113.07 198.51.100.1 1 2\r\n", "", ErrLine},
	{"v1, a zero before a port", "PROXY TCP4 203.0.113.7 198.51.100.1 01 2\r\n", "", ErrLine},
	{"v1, a sign before a port", "PROXY TCP4 203.0.113.7 198.51.100.1 +1 2\r\n", "", ErrLine},
	{"v1, a port too high", "PROXY TCP4 203.0.113.7 198.51.100.1 65536 2\r\n", "", ErrLine},
	{"v1, no port", "PROXY TCP4 203.0.113.7 198.51.100.1 1\r\n", "", ErrLine},
	{"v1, a word too many", "PROXY TCP4 203.0.113.7 198.51.100.1 1 2 3\r\n", "", ErrLine},
	{"v1, two spaces", "PROXY TCP4  203.0.113.7 198.51.100.1 1 2\r\n", "", ErrLine},
	{"v1, a space at the end", "PROXY TCP4 203.0.113.7 198.51.100.1 1 2 \r\n", "", ErrLine},
	{"v1, a tab", "PROXY TCP4\t203.0.113.7 198.51.100.1 1 2\r\n", "", ErrLine},
	{"v1, nothing", "PROXY \r\n", "", ErrLine},
	{"v1, LF alone", "PROXY TCP4 203.0.113.7 198.51.100.1 1 2\n", "", ErrLine},
	{"v1, CR alone", "PROXY TCP4 203.0.113.7 198.51.100.1 1 2\rGET", "", ErrLine},
	{"v1, CR within", "PROXY UNKNOWN a\rb\r\n", "", ErrLine},
	{"v1, LF within", "PROXY UNKNOWN a\nb\r\n", "", ErrLine},
	{"v1, a byte of 0", "PROXY TCP4 203.0.113.7\x00 198.51.100.1 1 2\r\n", "", ErrLine},

	{"v2, IPv4", v2(0x21, 0x11, ip4), "203.0.113.7:54321", nil},
	{"v2, IPv4 by UDP", v2(0x21, 0x12, ip4), "203.0.113.7:54321", nil},
	{"v2, IPv6", v2(0x21, 0x21, ip6), "[2001:db8::7]:54321", nil},
	{"v2, unix", v2(0x21, 0x31, unix216), "", nil},
	{"v2, unspecified", v2(0x21, 0x00, ""), "", nil},
	{"v2, unspecified with something", v2(0x21, 0x00, "ffffffffff"), "", nil},
	{"v2, IPv4 without a transport", v2(0x21, 0x10, ip4), "", nil},
	{"v2, local", v2(0x20, 0x00, ""), "", nil},
	{"v2, local with addresses", v2(0x20, 0x11, ip4), "", nil},
	{"v2, local of an unknown family", v2(0x20, 0xff, "00"), "", nil},
	{"v2, local, too short for its family", v2(0x20, 0x21, "00"), "", nil},
	{"v2, version 1", v2(0x11, 0x11, ip4), "", ErrVersion},
	{"v2, version 3", v2(0x31, 0x11, ip4), "", ErrVersion},
	{"v2, command 2", v2(0x22, 0x11, ip4), "", ErrCommand},
	{"v2, command 15", v2(0x2f, 0x11, ip4), "", ErrCommand},
	{"v2, family 4", v2(0x21, 0x41, ip4), "", ErrFamily},
	{"v2, transport 3", v2(0x21, 0x13, ip4), "", ErrFamily},
	{"v2, IPv4 cut", v2(0x21, 0x11, ip4[:len(ip4)-3]), "", ErrShort},
	{"v2, IPv4 said to be IPv6", v2(0x21, 0x21, ip4), "", ErrShort},
	{"v2, unix cut", v2(0x21, 0x31, unix216[2:]), "", ErrShort},
	{"v2, extensions", v2(0x21, 0x11, ip4+"01 0002 6832 04 0000 ea 0001 ff"), "203.0.113.7:54321", nil},
	{"v2, half an extension", v2(0x21, 0x11, ip4+"01 00"), "", ErrTLV},
	{"v2, an extension past the end", v2(0x21, 0x11, ip4+"01 0003 6832"), "", ErrTLV},
	{"v2, the largest", v2(0x21, 0x11, ip4+"04 0fe1"+strings.Repeat("00", 4096-16-12-3)), "203.0.113.7:54321", nil},
	{"v2, larger", v2(0x21, 0x11, ip4+"04 0fe2"+strings.Repeat("00", 4096-16-12-3+1)), "", ErrLong},
	{"v2, as large as can be", v2(0x21, 0x11, ip4)[:14] + "\xff\xff", "", ErrLong},
	{"v2, checksum", summed(v2(0x21, 0x11, ip4+"03 0004 00000000 04 0001 aa")), "203.0.113.7:54321", nil},
	{"v2, IPv6, checksum", summed(v2(0x21, 0x21, ip6+"03 0004 00000000")), "[2001:db8::7]:54321", nil},
	{"v2, wrong checksum", v2(0x21, 0x11, ip4+"03 0004 01020304"), "", ErrChecksum},
	{"v2, checksum of two bytes", v2(0x21, 0x11, ip4+"03 0002 0102"), "", ErrTLV},
	{"v2, two checksums", summed(v2(0x21, 0x11, ip4+"03 0004 00000000 03 0004 00000000")), "", ErrTLV},

	{"HTTP", "GET / HTTP/1.1\r\n\r\n", "", ErrNone},
	{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", ErrNone},
	{"TLS", "\x16\x03\x01\x02\x00\x01\x00", "", ErrNone},
	{"empty lines", "\r\n\r\nGET / HTTP/1.1\r\n", "", ErrNone},
	{"PROXY and no more", "PROXYING", "", ErrNone},
}

// summed puts the checksum of a header into its first extension.
func summed(h string) string {
	p := []byte(h)
	at := fixed + ipv4Length + tlvHead
	if p[len(signature)+1]>>4 == 2 {
		at = fixed + ipv6Length + tlvHead
	}
	binary.BigEndian.PutUint32(p[at:], checksum(p, at))
	return string(p)
}

func TestParse(t *testing.T) {
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			h, n, err := Parse([]byte(tc.raw))
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if err != nil {
				if n != 0 || h != (Header{}) {
					t.Errorf("something besides the error: %v, %d", h, n)
				}
				return
			}
			if n != len(tc.raw) {
				t.Errorf("%d bytes of %d", n, len(tc.raw))
			}
			var want netip.AddrPort
			if tc.client != "" {
				want = netip.MustParseAddrPort(tc.client)
			}
			if h.Client != want {
				t.Errorf("client %v, want %v", h.Client, want)
			}
			if more, m, err := Parse([]byte(tc.raw + "GET / HTTP/1.1\r\n\r\n")); more != h || m != n || err != nil {
				t.Errorf("with a request behind it: %v, %d, %v", more, m, err)
			}
			for cut := range n {
				if got, m, err := Parse([]byte(tc.raw[:cut])); m != 0 || err != nil || got != (Header{}) {
					t.Fatalf("its first %d bytes: %v, %d, %v", cut, got, m, err)
				}
			}
		})
	}
}

// The sum of the specification's own polynomial, by a value known elsewhere:
// RFC 3720 B.4 has it for 32 bytes of 0.
func TestChecksumIsCastagnolis(t *testing.T) {
	if got := checksum(make([]byte, 32), 8); got != 0x8a9136aa {
		t.Errorf("%08x", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, tc := range cases {
		f.Add([]byte(tc.raw))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		h, n, err := Parse(p)
		if n < 0 || n > len(p) || n > Max || err != nil && (n != 0 || h != (Header{})) {
			t.Fatalf("%v, %d of %d, %v", h, n, len(p), err)
		}
		if n == 0 && err == nil && len(p) >= Max {
			t.Fatal("still not enough")
		}
		// As bytes come, nothing is said before it is certain, and nothing taken back.
		for cut := range min(len(p), 300) {
			early, m, e := Parse(p[:cut])
			switch {
			case e != nil && (err == nil || !errors.Is(err, e) && !errors.Is(err, ErrLine) && !errors.Is(err, ErrLong)):
				t.Fatalf("the first %d bytes are wrong (%v), all are %v", cut, e, err)
			case m > 0 && (m != n || early != h):
				t.Fatalf("the first %d bytes are %d, %v; all are %d, %v", cut, m, early, n, h)
			case n > 0 && cut < n && m > 0:
				t.Fatalf("complete after %d bytes of %d", cut, n)
			}
		}
	})
}
