package supervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Responds asks every worker's goroutine for a sign of life. Its error names
// those that have given none when ctx ended: something in them hangs, since
// nothing that a worker waits for keeps it from hearing a request. Workers that
// have come to their end are not missed.
func (s *Supervisor) Responds(ctx context.Context) error {
	if !s.started.Load() {
		return nil
	}
	var mu sync.Mutex
	var deaf []error
	var all sync.WaitGroup
	for _, w := range s.workers() {
		all.Go(func() {
			select {
			case w.requests <- request{sign: true}:
			case <-w.done:
			case <-ctx.Done():
				mu.Lock()
				defer mu.Unlock()
				deaf = append(deaf, fmt.Errorf("worker %s does not respond: %w", w.name, context.Cause(ctx)))
			}
		})
	}
	all.Wait()
	return errors.Join(deaf...)
}
