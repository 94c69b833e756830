package rawcases

import "strings"

// Answer is what an engine sends, and why it is no answer.
type Answer struct {
	Name string
	Raw  string
	Why  string
}

const (
	ok = "HTTP/1.1 200 OK\r\n"

	// maxHead is how large an answer's head may be.
	maxHead = 64 << 10
)

// NoAnswers are heads of which no client may see anything.
var NoAnswers = []Answer{
	{"another protocol", "SSH-2.0-OpenSSH_9.2\r\n", "status line does not start with HTTP/1.1 or HTTP/1.0"},
	{"a request", "GET / HTTP/1.1\r\n\r\n", "status line does not start with HTTP/1.1 or HTTP/1.0"},
	{"HTTP/2", "HTTP/2 200 OK\r\n\r\n", "status line does not start with HTTP/1.1 or HTTP/1.0"},
	{"HTTP/1.2", "HTTP/1.2 200 OK\r\n\r\n", "status line does not start with HTTP/1.1 or HTTP/1.0"},
	{"small letters", "http/1.1 200 OK\r\n\r\n", "status line does not start with HTTP/1.1 or HTTP/1.0"},
	{"empty line first", "\r\nHTTP/1.1 200 OK\r\n\r\n", "status line does not start with HTTP/1.1 or HTTP/1.0"},
	{"space first", " HTTP/1.1 200 OK\r\n\r\n", "status line does not start with HTTP/1.1 or HTTP/1.0"},
	{"two spaces", "HTTP/1.1  200 OK\r\n\r\n", "status is not three digits between 100 and 599"},
	{"a tab for a space", "HTTP/1.1\t200 OK\r\n\r\n", "status is not three digits between 100 and 599"},
	{"HTTP/1.10", "HTTP/1.10 200 OK\r\n\r\n", "status is not three digits between 100 and 599"},
	{"no status", "HTTP/1.1\r\n\r\n", "status is not three digits between 100 and 599"},
	{"two digits", "HTTP/1.1 20 OK\r\n\r\n", "status is not three digits between 100 and 599"},
	{"four digits", "HTTP/1.1 2000 OK\r\n\r\n", "status is not three digits between 100 and 599"},
	{"status 099", "HTTP/1.1 099 OK\r\n\r\n", "status is not three digits between 100 and 599"},
	{"status 600", "HTTP/1.1 600 OK\r\n\r\n", "status is not three digits between 100 and 599"},
	{"signed status", "HTTP/1.1 +20 OK\r\n\r\n", "status is not three digits between 100 and 599"},
	{"status in other digits", "HTTP/1.1 2\xb20 OK\r\n\r\n", "status is not three digits between 100 and 599"},
	{"control in the reason", "HTTP/1.1 200 O\x00K\r\n\r\n", "control character in the reason phrase"},
	{"CR in the reason", "HTTP/1.1 200 O\rK\r\n\r\n", "control character in the reason phrase"},
	{"bare LF after the status line", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", "line ended by a bare LF"},
	{"bare LF after a field", ok + "A: b\nC: d\r\n\r\n", "line ended by a bare LF"},
	{"bare LF for the empty line", ok + "A: b\r\n\n", "line ended by a bare LF"},
	{"CR CR LF", ok + "A: b\r\r\n\r\n", "control character in a field value"},
	{"bare CR in a value", ok + "A: b\rC: d\r\n\r\n", "control character in a field value"},
	{"bare CR in a name", ok + "A\r: b\r\n\r\n", "field name is not a token"},
	{"NUL in a value", ok + "A: \x00\r\n\r\n", "control character in a field value"},
	{"DEL in a value", ok + "A: \x7f\r\n\r\n", "control character in a field value"},
	{"folded field", ok + "A: b\r\n c\r\n\r\n", "field line starts with white space"},
	{"folded by a tab", ok + "A: b\r\n\tc\r\n\r\n", "field line starts with white space"},
	{"folded first field", ok + " A: b\r\n\r\n", "field line starts with white space"},
	{"line of white space", ok + " \r\n\r\n", "field line starts with white space"},
	{"space before the colon", ok + "Content-Length : 0\r\n\r\n", "field name is not a token"},
	{"tab before the colon", ok + "Content-Length\t: 0\r\n\r\n", "field name is not a token"},
	{"empty name", ok + ": b\r\n\r\n", "field name is not a token"},
	{"name with a space", ok + "A B: c\r\n\r\n", "field name is not a token"},
	{"name with a quote", ok + "A\"B: c\r\n\r\n", "field name is not a token"},
	{"name beyond ASCII", ok + "\xc3\xa4: c\r\n\r\n", "field name is not a token"},
	{"no colon", ok + "ABC\r\n\r\n", "field line without a colon"},
	{"129 fields", ok + strings.Repeat("A: b\r\n", 129) + "\r\n", "too many fields"},
	{"one byte over 64 KiB", ok + "A: " + strings.Repeat("y", maxHead-len(ok)-len("A: \r\n\r\n")+1) + "\r\n\r\n", "head is larger than 64 KiB"},
	{"an endless line", "HTTP/1.1 200 " + strings.Repeat("y", maxHead), "head is larger than 64 KiB"},
	{"lengths that differ", ok + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "several Content-Lengths that differ"},
	{"list of lengths", ok + "Content-Length: 5, 5\r\n\r\n", "Content-Length is not a plain number"},
	{"empty length", ok + "Content-Length:\r\n\r\n", "Content-Length is not a plain number"},
	{"signed length", ok + "Content-Length: +5\r\n\r\n", "Content-Length is not a plain number"},
	{"negative length", ok + "Content-Length: -5\r\n\r\n", "Content-Length is not a plain number"},
	{"hexadecimal length", ok + "Content-Length: 0x5\r\n\r\n", "Content-Length is not a plain number"},
	{"length with a space", ok + "Content-Length: 1 2\r\n\r\n", "Content-Length is not a plain number"},
	{"length with a fraction", ok + "Content-Length: 5.0\r\n\r\n", "Content-Length is not a plain number"},
	{"length beyond int64", ok + "Content-Length: 9999999999999999999\r\n\r\n", "Content-Length is not a plain number"},
	{"length modulo 2^64", ok + "Content-Length: 18446744073709551621\r\n\r\n", "Content-Length is not a plain number"},
	{"length and chunked", ok + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "Content-Length together with Transfer-Encoding"},
	{"chunked and length", ok + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "Content-Length together with Transfer-Encoding"},
	{"gzip, chunked", ok + "Transfer-Encoding: gzip, chunked\r\n\r\n", "transfer coding other than one final chunked"},
	{"gzip", ok + "Transfer-Encoding: gzip\r\n\r\n", "transfer coding other than one final chunked"},
	{"identity", ok + "Transfer-Encoding: identity\r\n\r\n", "transfer coding other than one final chunked"},
	{"chunked twice", ok + "Transfer-Encoding: chunked, chunked\r\n\r\n", "transfer coding other than one final chunked"},
	{"two codings", ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "transfer coding other than one final chunked"},
	{"chunked quoted", ok + "Transfer-Encoding: \"chunked\"\r\n\r\n", "transfer coding other than one final chunked"},
	{"chunked with a parameter", ok + "Transfer-Encoding: chunked;q=1\r\n\r\n", "transfer coding other than one final chunked"},
	{"vertical tab around chunked", ok + "Transfer-Encoding: \vchunked\r\n\r\n", "control character in a field value"},
	{"empty coding", ok + "Transfer-Encoding:\r\n\r\n", "transfer coding other than one final chunked"},
	{"the Kelvin sign in chunked", ok + "Transfer-Encoding: chun\u212aed\r\n\r\n", "transfer coding other than one final chunked"},
	{"chunked in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding in HTTP/1.0"},
	{"interim answer with a length", "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\n", "interim answer with a body"},
	{"interim answer in chunks", "HTTP/1.1 100 Continue\r\nTransfer-Encoding: chunked\r\n\r\n", "interim answer with a body"},
}

// HalfAnswers begin well, and are then no HTTP; or end too early, where Why is
// empty.
var HalfAnswers = []Answer{
	{"no size", chunks + "\r\nhello\r\n0\r\n\r\n", "chunk size is not a hexadecimal number"},
	{"signed size", chunks + "+5\r\nhello\r\n0\r\n\r\n", "chunk size is not a hexadecimal number"},
	{"0x", chunks + "0x5\r\nhello\r\n0\r\n\r\n", "chunk size is not a hexadecimal number"},
	{"space after the size", chunks + "5 \r\nhello\r\n0\r\n\r\n", "chunk size is not a hexadecimal number"},
	{"bare LF after the size", chunks + "5\nhello\r\n0\r\n\r\n", "chunk size is not a hexadecimal number"},
	{"size modulo 2^64", chunks + "10000000000000005\r\nhello\r\n0\r\n\r\n", "chunk size is too large"},
	{"NUL in an extension", chunks + "5;\x00\r\nhello\r\n0\r\n\r\n", "control character in a chunk extension"},
	{"data longer than said", chunks + "5\r\nhello!\r\n0\r\n\r\n", "chunk is not followed by CRLF"},
	{"no line end after the data", chunks + "5\r\nhello0\r\n\r\n", "chunk is not followed by CRLF"},
	{"bare LF after the data", chunks + "5\r\nhello\n0\r\n\r\n", "chunk is not followed by CRLF"},
	{"bare LF for the last line", chunks + "5\r\nhello\r\n0\r\n\n", "line ended by a bare LF"},
	{"folded trailer", chunks + "5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n", "field line starts with white space"},
	{"trailer without a colon", chunks + "5\r\nhello\r\n0\r\nA\r\n\r\n", "field line without a colon"},
	{"129 trailers", chunks + "5\r\nhello\r\n0\r\n" + strings.Repeat("a:\r\n", 129) + "\r\n", "too many fields"},
	{"text after the last chunk", chunks + "5\r\nhello\r\n0\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "field line without a colon"},
	{"ends after the head", chunks, ""},
	{"ends within a size", chunks + "5", ""},
	{"ends within the data", chunks + "5\r\nhel", ""},
	{"ends before the last chunk", chunks + "5\r\nhello\r\n", ""},
	{"ends before the last CRLF", chunks + "5\r\nhello\r\n0\r\n", ""},
	{"ends within a trailer", chunks + "5\r\nhello\r\n0\r\nA: b", ""},
	{"ends before a sized body", ok + "Content-Length: 5\r\n\r\n", ""},
	{"ends within a sized body", ok + "Content-Length: 5\r\n\r\nhell", ""},
}

const chunks = ok + "Transfer-Encoding: chunked\r\n\r\n"
