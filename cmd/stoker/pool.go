package main

import (
	"strings"

	"stoker/balancer"
	"stoker/balancer/continuation"
	"stoker/config"
	"stoker/upstream"
)

// poolOptions are what the configuration says of a pool's members and queue.
func poolOptions(p *config.Pool) upstream.PoolOptions {
	return upstream.PoolOptions{
		Policy:         policyOf(p),
		AffinityLoad:   p.Affinity.LoadPercent,
		PromptTokens:   p.WeighPrompts,
		PrefixMemory:   p.Affinity.MemoryMiB << 20,
		MaxConcurrency: p.MaxConcurrency,
		QueueLength:    p.Queue.Length,
		QueueTimeout:   p.Queue.Timeout.Std(),
		Breaker: upstream.BreakerOptions{
			Failures: p.Breaker.Failures,
			Within:   p.Breaker.Within.Std(),
			Open:     p.Breaker.Open.Std(),
		},
		SlowStart: p.SlowStart.Std(),
		Transport: upstream.TransportOptions{
			ConnectTimeout:  p.ConnectTimeout.Std(),
			ResponseTimeout: p.ResponseTimeout.Std(),
		},
	}
}

// modelsOf are the models that a configuration names.
func modelsOf(cfg *config.Config) []string {
	var models []string
	for i := range cfg.Pools {
		if model := cfg.Pools[i].Health.Canary.Model; model != "" {
			models = append(models, model)
		}
	}
	for _, r := range cfg.Routes {
		for _, name := range r.Models {
			if !strings.HasSuffix(name, "*") { // the others are whatever clients make of them
				models = append(models, name)
			}
		}
		for alias, name := range r.Aliases {
			models = append(models, alias, name)
		}
	}
	return models
}

func policyOf(p *config.Pool) upstream.Policy {
	if p.Policy == "round_robin" {
		return upstream.RoundRobin
	}
	return upstream.LeastOutstanding
}

// poolRules are what the configuration says of the requests to a pool.
func poolRules(p *config.Pool) balancer.Rules {
	onDeath := p.OnDeath
	if p.Remote() {
		onDeath = "" // others' engines: nobody tells of their deaths
	}
	mode := p.Migrate
	if mode == "off" {
		mode = ""
	}
	profile, _ := continuation.ProfileOf(p.Migration.Engine)
	return balancer.Rules{
		Migration: balancer.Migration{
			Mode: mode, Limit: p.Migration.Limit, Stall: p.TokenStallTimeout.Std(), Seed: p.Migration.InjectSeed, Engine: profile,
			Stream: int64(p.Migration.StreamKiB) << 10, Memory: int64(p.Migration.MemoryMiB) << 20,
		},
		OnDeath:        onDeath,
		QueueTimeout:   p.Queue.Timeout.Std(),
		QueueLength:    p.Queue.Length,
		Attempts:       p.Retry.Attempts,
		RetryPercent:   p.Retry.BudgetPercent,
		RetryFloor:     p.Retry.BudgetMin,
		MinRemaining:   p.MinRemaining.Std(),
		Affinity:       balancer.ParseAffinity(p.Affinity.By),
		WeighPrompts:   p.WeighPrompts > 0 && policyOf(p) == upstream.LeastOutstanding,
		CountTokens:    p.CountTokens,
		PriorityHeader: p.Queue.PriorityHeader,
	}
}
