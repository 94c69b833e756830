package main

import (
	"stoker/balancer"
	"stoker/config"
	"stoker/upstream"
)

// poolOptions are what the configuration says of a pool's members and queue.
func poolOptions(p *config.Pool) upstream.PoolOptions {
	policy := upstream.LeastOutstanding
	if p.Policy == "round_robin" {
		policy = upstream.RoundRobin
	}
	return upstream.PoolOptions{
		Policy:         policy,
		AffinityLoad:   p.Affinity.LoadPercent,
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

// poolRules are what the configuration says of the requests to a pool.
func poolRules(p *config.Pool) balancer.Rules {
	onDeath := p.OnDeath
	if p.Remote() {
		onDeath = "" // others' engines: nobody tells of their deaths
	}
	return balancer.Rules{
		OnDeath:        onDeath,
		QueueTimeout:   p.Queue.Timeout.Std(),
		Attempts:       p.Retry.Attempts,
		RetryPercent:   p.Retry.BudgetPercent,
		RetryFloor:     p.Retry.BudgetMin,
		MinRemaining:   p.MinRemaining.Std(),
		Affinity:       balancer.ParseAffinity(p.Affinity.By),
		PriorityHeader: p.Queue.PriorityHeader,
	}
}
