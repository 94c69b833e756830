package balancer

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
	"stoker/upstream"
)

const (
	// listTime is how long an answer is good for others. Which models there are
	// changes when engines do.
	listTime = 5 * time.Second
	// listPatience is how long a pool may take to name its models. One that takes
	// longer is left out.
	listPatience = 3 * time.Second
	// listLimit is the largest list that a pool may send, in bytes.
	listLimit = 1 << 20
	// listKeys is how many clients' keys have answers of their own.
	listKeys = 64
)

// modelList answers with the models of several pools, as OpenAI's /v1/models
// does: those to which the routes of the host lead that was asked. Engines that are down are left out. What a key may
// see is asked with that key, and shown to nobody with another.
type modelList struct {
	routes routes // all there are

	asking chan struct{} // holds one: who asks the pools
	answer map[listKey]listAnswer
}

// listKey is what an answer depends on.
type listKey struct {
	authorization string
	routes        string // their places, a byte for each
}

type listAnswer struct {
	body  []byte
	until time.Time
}

// listed is an entry of a list: all that an engine says of a model.
type listed struct {
	id  string
	raw json.RawMessage
}

// linkModelLists tells each list of the routes that there are.
func (t routes) linkModelLists() {
	for _, r := range t {
		if list, ok := r.own.(*modelList); ok {
			list.routes, list.asking, list.answer = t, make(chan struct{}, 1), map[listKey]listAnswer{}
		}
	}
}

// behind are the routes of a host that lead to pools, and what they are together.
func (m *modelList) behind(host string) (found routes, key string) {
	var places []byte
	for i, r := range m.routes {
		if r.own == nil && r.match.host.matches(host) {
			found, places = append(found, r), binary.AppendUvarint(places, uint64(i))
		}
	}
	return found, string(places)
}

// pools are those that the routes lead to.
func (t routes) pools() []*lane {
	var pools []*lane
	for _, r := range t {
		for _, l := range r.to.lanes() {
			if !slices.Contains(pools, l) {
				pools = append(pools, l)
			}
		}
	}
	return pools
}

func (m *modelList) make(ctx context.Context, b *Balancer, _ *route, x *exchange.Exchange) (reply, error) {
	behind, places := m.behind(hostOnly(x.Request.Authority))
	select {
	case m.asking <- struct{}{}:
		defer func() { <-m.asking }()
	case <-ctx.Done():
		return reply{}, context.Cause(ctx)
	}
	key := listKey{strings.Clone(x.Request.Fields.Get("Authorization")), places}
	known, ok := m.answer[key]
	if now := time.Now(); !ok || now.After(known.until) {
		body, err := behind.models(ctx, x, b.tokens.Learn)
		if err != nil {
			return reply{}, err
		}
		known = listAnswer{body, time.Now().Add(listTime)}
		maps.DeleteFunc(m.answer, func(_ listKey, a listAnswer) bool { return now.After(a.until) })
		if len(m.answer) < listKeys {
			m.answer[key] = known
		}
	}
	return reply{status: http.StatusOK, fields: http1.Fields{{Name: "Content-Type", Value: "application/json"}}, body: known.body}, nil
}

// models asks all pools at once and puts together what they say.
func (t routes) models(ctx context.Context, x *exchange.Exchange, learn func(model string)) ([]byte, error) {
	limited, cancel := context.WithTimeoutCause(ctx, listPatience, upstream.ErrNoneReady)
	defer cancel()
	pools := t.pools()
	lists, errs := make([][]listed, len(pools)), make([]error, len(pools))
	var asked sync.WaitGroup
	for i, l := range pools {
		asked.Go(func() { lists[i], errs[i] = l.models(limited, x) })
	}
	asked.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if !slices.Contains(errs, nil) {
		return nil, upstream.ErrNoneReady
	}
	merged := struct {
		Object string            `json:"object"`
		Data   []json.RawMessage `json:"data"`
	}{"list", []json.RawMessage{}}
	seen := map[string]bool{}
	for _, r := range t {
		for _, l := range r.to.lanes() {
			for _, model := range r.offers(lists[slices.Index(pools, l)]) {
				if !seen[model.id] {
					seen[model.id] = true
					learn(model.id)
					merged.Data = append(merged.Data, model.raw)
				}
			}
		}
	}
	return json.Marshal(merged)
}

// offers are the models, of those that a pool has, by whose names clients reach
// it over the route: aliases instead of what they stand for, unless that is
// a name of the route too.
func (r *route) offers(models []listed) []listed {
	if len(r.match.models) == 0 {
		return models
	}
	var offered []listed
	for _, model := range models {
		for _, alias := range sortedKeys(r.aliases) {
			if r.aliases[alias] == model.id {
				offered = append(offered, listed{alias, model.named(alias)})
			}
		}
		_, hidden := r.aliases[model.id]
		if !hidden && slices.ContainsFunc(r.match.models, func(p wordPattern) bool { return p.matches(model.id) }) {
			offered = append(offered, model)
		}
	}
	return offered
}

// named is an entry by another name.
func (l listed) named(id string) json.RawMessage {
	var entry map[string]json.RawMessage
	if json.Unmarshal(l.raw, &entry) != nil {
		return l.raw
	}
	entry["id"] = appendJSON(nil, id)
	raw, err := json.Marshal(entry)
	if err != nil {
		return l.raw
	}
	return raw
}

// models asks a member of the pool for its models, with the key of x.
func (l *lane) models(ctx context.Context, x *exchange.Exchange) ([]listed, error) {
	lease, err := l.pool.Acquire(ctx, &Want{})
	if err != nil {
		return nil, err
	}
	defer lease.Release()
	fields := http1.Fields{{Name: requestIDField, Value: x.Record.ID}, {Name: "Accept", Value: "application/json"}}
	if key := x.Request.Fields.Get("Authorization"); key != "" {
		fields = append(fields, http1.Field{Name: "Authorization", Value: key})
	}
	answer := &kept{}
	own := &exchange.Exchange{
		Request: http1.Request{Method: http.MethodGet, Target: "/v1/models", Authority: x.Request.Authority, Scheme: x.Request.Scheme, Proto: 11, Fields: fields},
		Sink:    answer,
	}
	if own.Request.Authority == "" {
		own.Request.Authority = "stoker"
	}
	if err := lease.Do(ctx, own, answer); err != nil {
		return nil, err
	}
	return answer.models()
}

// errNoList: a pool's answer names no models.
var errNoList = errors.New("no list of models")

// kept is the sink of a small answer that we ask for ourselves.
type kept struct {
	status int
	body   []byte
}

func (k *kept) models() ([]listed, error) {
	var list struct {
		Data []json.RawMessage `json:"data"`
	}
	if k.status != http.StatusOK || json.Unmarshal(k.body, &list) != nil {
		return nil, errNoList
	}
	var models []listed
	for _, raw := range list.Data {
		var entry struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(raw, &entry) == nil && entry.ID != "" {
			models = append(models, listed{entry.ID, raw})
		}
	}
	return models, nil
}

var _ exchange.Sink = (*kept)(nil)

// Interim implements exchange.Sink.
func (*kept) Interim(int, http1.Fields) error { return nil }

// Head implements exchange.Sink.
func (k *kept) Head(r *http1.Response, _ int64) error {
	k.status = r.Status
	return nil
}

// Write implements exchange.Sink.
func (k *kept) Write(p []byte) (int, error) {
	if len(k.body)+len(p) > listLimit {
		return 0, errNoList
	}
	k.body = append(k.body, p...)
	return len(p), nil
}

// Flush implements exchange.Sink.
func (*kept) Flush() error { return nil }

// Splice implements exchange.Sink.
func (k *kept) Splice(src *rawconn.Conn, n int64) (int64, error) {
	buf := make([]byte, 32<<10)
	var moved int64
	for moved < n {
		got, err := src.Read(buf[:min(int64(len(buf)), n-moved)])
		moved += int64(got)
		if _, werr := k.Write(buf[:got]); werr != nil {
			return moved, werr
		}
		if err != nil {
			return moved, nil //nolint:nilerr // src has ended, which is the transport's to judge
		}
	}
	return moved, nil
}

// End implements exchange.Sink.
func (*kept) End(http1.Fields) error { return nil }

// Break implements exchange.Sink.
func (*kept) Break(error) {}
