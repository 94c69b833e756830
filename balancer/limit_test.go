package balancer

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"stoker/config"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// A route's own limit of bodies counts instead of everybody's, smaller or larger,
// also where the body had to be read before the route was known.
func TestBodiesByRoute(t *testing.T) {
	const mib = 1 << 20
	routes := []config.Route{
		{Path: "/model/small", Models: []string{"m"}, Pool: "p", BodyMiB: 1},
		{Path: "/model", Models: []string{"m"}, Pool: "p"},
		{Path: "/small", Pool: "p", BodyMiB: 1},
		{Path: "/large", Pool: "p", BodyMiB: 4},
		{Pool: "p"},
	}
	for _, tc := range []struct {
		target string
		size   int
		status int
	}{
		{"/small", mib, 200},
		{"/small", mib + 1, 413},
		{"/large", 4 * mib, 200},
		{"/large", 4*mib + 1, 413},
		{"/other", 2 * mib, 200},
		{"/other", 2*mib + 1, 413},
		{"/model", 2 * mib, 200},
		{"/model", 2*mib + 1, 413},
		{"/model/small", mib, 200},
		{"/model/small", mib + 1, 413},
	} {
		for _, how := range []string{"declared", "chunked", "chunked, with trailers"} {
			t.Run(fmt.Sprint(tc.target, " ", tc.size, " ", how), func(t *testing.T) {
				got := 0
				member := &fakeMember{name: "m0", do: func(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
					body, err := io.ReadAll(x.Body)
					if err != nil {
						return &upstream.Failure{Op: upstream.OpClientBody, Err: err}
					}
					got = len(body)
					return answers(ctx, x, sink)
				}}
				b := newBalancer(t, Options{
					Pools: []Pool{&fakePool{name: "p", members: []*fakeMember{member}}}, Routes: routes, MaxBody: 2 * mib, MaxAhead: 8 * mib,
				})
				const head = `{"model":"m","p":"`
				text := head + strings.Repeat("x", tc.size-len(head)-2) + `"}`
				sink := &fakeSink{}
				length := int64(-1)
				if how == "declared" {
					length = int64(len(text))
				}
				x := post(strings.NewReader(text), length, sink)
				x.Request.Target = tc.target
				if how == "chunked, with trailers" {
					x.Trailers = func() http1.Fields { return http1.Fields{{Name: "X-Sum", Value: "1"}} }
				}
				b.Serve(t.Context(), x)
				if sink.head.Status != tc.status || tc.status == 200 && got != tc.size {
					t.Errorf("%d %s, the engine got %d bytes", sink.head.Status, sink.body, got)
				}
			})
		}
	}
}
