package main

import (
	"time"

	"stoker/scripts/bench-policy/traffic"
	"stoker/upstream"
)

// workers of every scenario.
const workers = 8

// scenario is traffic, and the engines that it meets.
type scenario struct {
	name  string
	about string
	load  traffic.Load
	slow  float64 // slowness of the first worker; 0: as the others
}

var (
	noPause = traffic.LogNormal{}
	pause   = traffic.LogNormal{Median: 15, Sigma: 0.8, Max: 120}
	answer  = traffic.LogNormal{Median: 150, Sigma: 1, Max: 2000}
)

// scenarios in the order of the report. Their loads are some four fifths of what
// the engines can take: with less every policy will do, and with more none.
func scenarios() []scenario {
	single := traffic.Load{
		Conversations: 80, Turns: 1, Applications: 1, HotShare: 1,
		Text: traffic.LogNormal{Median: 400, Sigma: 1.2, Max: 16000}, Answer: answer, Pause: noPause,
	}
	heavy := single
	heavy.Conversations, heavy.Text = 38, traffic.LogNormal{Median: 600, Sigma: 1.7, Max: 32000}
	chat := traffic.Load{
		Conversations: 3.6, Turns: 8, Applications: 40, HotShare: 0, System: 1000,
		Text: traffic.LogNormal{Median: 250, Sigma: 1.2, Max: 8000}, Answer: answer, Pause: pause,
	}
	hot := chat
	hot.HotShare = 0.4
	return []scenario{
		{name: "single", about: "requests that stand alone, prompts of 400 tokens (median) and 820 (mean)", load: single},
		{name: "single, one slow", about: "the same; one worker needs twice the time", load: single, slow: 2},
		{name: "heavy tail", about: "requests that stand alone, prompts of 600 tokens (median) to 32 000", load: heavy},
		{name: "chat", about: "conversations of 8 turns, 40 applications with a system prompt of 1000 tokens each", load: chat},
		{name: "chat, one slow", about: "the same; one worker needs twice the time", load: chat, slow: 2},
		{name: "chat, hot", about: "the same; two fifths of the conversations are one application's", load: hot},
	}
}

func (s *scenario) engines() []traffic.Spec {
	specs := make([]traffic.Spec, workers)
	for i := range specs {
		specs[i] = traffic.Standard()
	}
	if s.slow > 0 {
		specs[0].Slowness = s.slow
	}
	return specs
}

// weigh is pools.weigh_prompts by default.
const weigh = 1000

// policy is a way to choose.
type policy struct {
	name string
	make func() traffic.Chooser
}

// The policies that claims are made about.
const (
	nginxRoundRobin = "nginx round robin"
	roundRobin      = "round_robin"
	nginxLeastConn  = "nginx least_conn"
	unweighed       = "least_outstanding, weigh_prompts = 0"
	byDefault       = "least_outstanding (default)"
	byConversation  = "affinity by conversation"
	byConversation2 = "affinity by conversation, load_percent = 150"
	byApplication   = "affinity by application"
	nginxHash       = "nginx hash, consistent, by conversation"
	byPrefix        = "affinity by prefix"
	byPrefix2       = "affinity by prefix, load_percent = 150"
	nginxHashApp    = "nginx hash, consistent, by application"
)

// policies in the order of the report, those that make sense for s. nginx's
// consistent hash stands as ours without a bound, which flatters it: with a
// member's keys in 160 places of a ring its shares are less even.
func policies(s *scenario) []policy {
	none := func(*traffic.Request) string { return "" }
	conversation := func(r *traffic.Request) string { return r.Key }
	application := func(r *traffic.Request) string { return r.AppKey }
	pool := func(o upstream.PoolOptions, key func(*traffic.Request) string) func() traffic.Chooser {
		return func() traffic.Chooser { return newPooled(workers, o, key) }
	}
	prefix := func(percent int) func() traffic.Chooser {
		return func() traffic.Chooser {
			p := newPooled(workers, upstream.PoolOptions{PromptTokens: weigh, AffinityLoad: percent, PrefixMemory: 4 << 20}, none)
			p.prompts = true
			return p
		}
	}
	all := []policy{
		{nginxRoundRobin, func() traffic.Chooser { return &nginx{peers: make([]peer, workers)} }},
		{nginxLeastConn, func() traffic.Chooser { return &nginx{leastConn: true, peers: make([]peer, workers)} }},
		{roundRobin, pool(upstream.PoolOptions{Policy: upstream.RoundRobin}, none)},
		{unweighed, pool(upstream.PoolOptions{}, none)},
		{byDefault, pool(upstream.PoolOptions{PromptTokens: weigh}, none)},
		{"least_outstanding, max_concurrency = 48", pool(upstream.PoolOptions{PromptTokens: weigh, MaxConcurrency: 48}, none)},
		{byConversation, pool(upstream.PoolOptions{PromptTokens: weigh, AffinityLoad: 125}, conversation)},
	}
	all = append(all, policy{byPrefix, prefix(125)})
	if s.load.Applications == 1 {
		return all
	}
	return append(all,
		policy{byConversation2, pool(upstream.PoolOptions{PromptTokens: weigh, AffinityLoad: 150}, conversation)},
		policy{byPrefix2, prefix(150)},
		policy{byApplication, pool(upstream.PoolOptions{PromptTokens: weigh, AffinityLoad: 125}, application)},
		policy{nginxHash, pool(upstream.PoolOptions{}, conversation)},
		policy{nginxHashApp, pool(upstream.PoolOptions{}, application)},
	)
}

// The length of a run, and of its beginning that is not counted.
const (
	length = 6 * time.Minute
	warm   = 2 * time.Minute
)
