package tracing

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

const (
	// tries of one batch, with a wait between that doubles.
	tries     = 3
	firstWait = 500 * time.Millisecond
	longest   = 5 * time.Second
)

// sender speaks OTLP over HTTP. The library's own brings all of gRPC into every
// keeper's memory, which has no use for it; what is on the wire is little: a
// message of the same form as TracesData is posted.
type sender struct {
	url     string
	headers map[string]string
	version string
	client  *http.Client
	// given up: whatever is being sent ends, and nothing more is.
	givenUp context.Context //nolint:containedctx // it is a switch, and no request's
	giveUp  context.CancelFunc
}

var _ otlptrace.Client = (*sender)(nil)

func newSender(o *Options) *sender {
	s := &sender{url: o.Endpoint, headers: o.Headers, version: o.Version, client: &http.Client{Transport: &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		DialContext:     (&net.Dialer{Timeout: longest}).DialContext,
		MaxIdleConns:    1,
		IdleConnTimeout: 30 * time.Second,
		// What a collector answers is short.
		MaxResponseHeaderBytes: 16 << 10,
	}}}
	s.givenUp, s.giveUp = context.WithCancel(context.Background())
	return s
}

// Start implements otlptrace.Client.
func (s *sender) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (s *sender) Stop(context.Context) error {
	s.giveUp()
	s.client.CloseIdleConnections()
	return nil
}

// UploadTraces implements otlptrace.Client.
func (s *sender) UploadTraces(ctx context.Context, batch []*spans.ResourceSpans) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.givenUp, cancel)()
	body, err := proto.Marshal(&spans.TracesData{ResourceSpans: batch})
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	wait := firstWait
	for try := 1; ; try++ {
		later, err := s.post(ctx, body)
		if err == nil || later < 0 || try == tries {
			return err
		}
		timer := time.NewTimer(min(max(wait, later), longest))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
		wait *= 2
	}
}

// never: another try would end as this one has.
const never = time.Duration(-1)

// post sends a batch once. later is when another try may help, if it has failed.
func (s *sender) post(ctx context.Context, body []byte) (later time.Duration, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return never, err
	}
	r.Header.Set("User-Agent", "stoker/"+s.version)
	for name, value := range s.headers {
		r.Header.Set(name, value)
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	answer, err := s.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection is used again
	switch answer.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
		return time.Duration(max(seconds, 0)) * time.Second, fmt.Errorf("the collector answered %s", answer.Status)
	}
	if answer.StatusCode/100 != 2 {
		return never, fmt.Errorf("the collector answered %s", answer.Status)
	}
	return 0, nil
}
