package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// answer is the records that were asked for, without the CNAMEs on the way.
type answer struct {
	records []dns.RR
	ttl     time.Duration
}

// follow asks for one kind of record, and goes on at the end of each chain of
// CNAMEs that a server leaves to us.
func (r *Resolver) follow(ctx context.Context, servers *dns.ClientConfig, name string, kind uint16) (answer, error) {
	got := answer{ttl: maxTTL}
	for range maxAliases {
		reply, err := ask(ctx, servers, name, kind)
		if err != nil {
			return answer{}, err
		}
		end := got.take(reply, name, kind)
		switch {
		case len(got.records) > 0:
			return got, nil
		case strings.EqualFold(end, name):
			return answer{}, ErrNotFound
		}
		name = end
	}
	return answer{}, fmt.Errorf("%s: more than %d CNAMEs, one after another", name, maxAliases)
}

// take keeps of a reply what belongs to name, and returns where its CNAMEs end.
func (a *answer) take(reply *dns.Msg, name string, kind uint16) string {
	for range maxAliases {
		next := ""
		for _, record := range reply.Answer {
			h := record.Header()
			if !strings.EqualFold(h.Name, name) {
				continue
			}
			alias, isAlias := record.(*dns.CNAME)
			if h.Rrtype != kind && !isAlias {
				continue
			}
			a.ttl = min(a.ttl, time.Duration(h.Ttl)*time.Second)
			if isAlias {
				next = alias.Target
			} else {
				a.records = append(a.records, record)
			}
		}
		if next == "" || len(a.records) > 0 {
			break
		}
		name = next
	}
	return name
}

// ask puts one question to the servers in their order until one answers it.
func ask(ctx context.Context, servers *dns.ClientConfig, name string, kind uint16) (*dns.Msg, error) {
	question := new(dns.Msg)
	question.SetQuestion(name, kind)
	question.SetEdns0(udpSize, false)
	timeout := min(time.Duration(servers.Timeout)*time.Second, queryTimeout)
	var failure error
	for range max(1, min(servers.Attempts, 3)) {
		for _, server := range servers.Servers {
			reply, err := exchange(ctx, question, net.JoinHostPort(server, servers.Port), timeout)
			switch {
			case ctx.Err() != nil:
				return nil, context.Cause(ctx)
			case err != nil:
				failure = err
			case reply.Rcode == dns.RcodeSuccess:
				return reply, nil
			case reply.Rcode == dns.RcodeNameError:
				return nil, ErrNotFound
			default:
				failure = fmt.Errorf("%s answers %s", server, dns.RcodeToString[reply.Rcode])
			}
		}
	}
	return nil, failure
}

// exchange asks over UDP, and again over TCP if the answer did not fit.
func exchange(ctx context.Context, question *dns.Msg, server string, timeout time.Duration) (*dns.Msg, error) {
	client := dns.Client{Net: "udp", Timeout: timeout, UDPSize: udpSize}
	reply, _, err := client.ExchangeContext(ctx, question, server)
	if err == nil && reply.Rcode == dns.RcodeFormatError && question.IsEdns0() != nil {
		plain := question.Copy() // a server from before EDNS
		plain.Extra = nil
		return exchange(ctx, plain, server, timeout)
	}
	if err == nil && reply.Truncated || errors.Is(err, dns.ErrBuf) {
		client.Net = "tcp"
		reply, _, err = client.ExchangeContext(ctx, question, server)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", server, err)
	}
	return reply, nil
}
