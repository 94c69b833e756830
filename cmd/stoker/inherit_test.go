package main

import (
	"context"
	"os"
)

// firstGeneration inherits nothing and passes nothing on.
func firstGeneration() *inheritance {
	ended := make(chan struct{})
	close(ended)
	return &inheritance{upgrader: alone{ended}}
}

// alone is an upgrader without a process before or after.
type alone struct{ ended chan struct{} }

func (alone) File(string) (*os.File, error)         { return nil, nil }
func (alone) AddFile(string, *os.File) error        { return nil }
func (alone) Ready() error                          { return nil }
func (alone) Upgrade() error                        { return errEnding }
func (alone) WaitForParent(_ context.Context) error { return nil }
func (alone) Stop()                                 {}
func (a alone) Exit() <-chan struct{}               { return a.ended }
