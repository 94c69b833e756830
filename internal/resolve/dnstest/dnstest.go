// Package dnstest is a DNS server on loopback whose answers a test may change
// while it is asked.
package dnstest

import (
	"net"
	"sync"
	"testing"

	"github.com/miekg/dns"
)

// Server answers over UDP and TCP at Address.
type Server struct {
	Address string
	tb      testing.TB

	mu       sync.Mutex
	records  map[dns.Question][]dns.RR
	rcode    int
	rcodes   map[dns.Question]int
	truncate bool
	asked    map[dns.Question]int
	overTCP  int
}

// Start begins to serve, until the test's end.
func Start(tb testing.TB) *Server {
	tb.Helper()
	s := &Server{tb: tb, records: map[dns.Question][]dns.RR{}, rcodes: map[dns.Question]int{}, asked: map[dns.Question]int{}}
	udp, tcp := listen(tb)
	s.Address = udp.LocalAddr().String()
	var running sync.WaitGroup
	for _, server := range []*dns.Server{{PacketConn: udp, Handler: s}, {Listener: tcp, Handler: s}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		running.Go(func() { _ = server.ActivateAndServe() })
		<-started
		tb.Cleanup(func() { _ = server.Shutdown() })
	}
	tb.Cleanup(func() { _ = udp.Close(); _ = tcp.Close() })
	return s
}

// listen finds a port that is free for both.
func listen(tb testing.TB) (net.PacketConn, net.Listener) {
	tb.Helper()
	for range 100 {
		udp, err := net.ListenPacket("udp", "127.0.0.1:0") //nolint:noctx // loopback
		if err != nil {
			tb.Fatal(err)
		}
		tcp, err := net.Listen("tcp", udp.LocalAddr().String()) //nolint:noctx // loopback
		if err == nil {
			return udp, tcp
		}
		_ = udp.Close()
	}
	tb.Fatal("no port is free for UDP and TCP")
	return nil, nil
}

func question(name string, kind uint16) dns.Question {
	return dns.Question{Name: dns.CanonicalName(name), Qtype: kind, Qclass: dns.ClassINET}
}

// Set replaces what is answered to a name's question: records as in a zone
// file, such as "engines.internal. 1 IN A 127.0.0.1". None: the name has none of that kind.
func (s *Server) Set(name string, kind uint16, records ...string) {
	s.tb.Helper()
	var parsed []dns.RR
	for _, text := range records {
		record, err := dns.NewRR(text)
		if err != nil {
			s.tb.Fatal(err)
		}
		parsed = append(parsed, record)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[question(name, kind)] = parsed
}

// Fail lets all questions be answered with that code; dns.RcodeSuccess: no more.
func (s *Server) Fail(rcode int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rcode = rcode
}

// FailOne is Fail for one question.
func (s *Server) FailOne(name string, kind uint16, rcode int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rcodes[question(name, kind)] = rcode
}

// Truncate lets every answer over UDP be cut short.
func (s *Server) Truncate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.truncate = true
}

// Asked is how often a question has come.
func (s *Server) Asked(name string, kind uint16) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[question(name, kind)]
}

// OverTCP is how many questions have come over TCP.
func (s *Server) OverTCP() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.overTCP
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	reply := new(dns.Msg).SetReply(r)
	s.mu.Lock()
	q := question(r.Question[0].Name, r.Question[0].Qtype)
	s.asked[q]++
	_, udp := w.RemoteAddr().(*net.UDPAddr)
	if !udp {
		s.overTCP++
	}
	records, known := s.records[q]
	if !known {
		reply.Rcode = dns.RcodeNameError
		for other := range s.records {
			if other.Name == q.Name {
				reply.Rcode = dns.RcodeSuccess
			}
		}
	}
	switch {
	case s.rcode != dns.RcodeSuccess:
		reply.Rcode = s.rcode
	case s.rcodes[q] != dns.RcodeSuccess:
		reply.Rcode = s.rcodes[q]
	case udp && s.truncate:
		reply.Truncated = true
	default:
		reply.Answer = records
	}
	s.mu.Unlock()
	_ = w.WriteMsg(reply)
}
