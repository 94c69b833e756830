package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// kind is what an event does.
type kind string

// The kinds, each as often as its weight says.
const (
	killEngine   kind = "kill-engine"
	exitEngine   kind = "exit-engine"  // by itself, with code 0 or 37, or by SIGABRT
	pauseEngine  kind = "pause-engine" // SIGSTOP, and SIGCONT later or never
	killKeeper   kind = "kill-keeper"
	pauseKeeper  kind = "pause-keeper"
	killMaster   kind = "kill-master"
	pauseMaster  kind = "pause-master"
	stopMaster   kind = "stop-master" // gracefully, or in a hurry
	killElder    kind = "kill-elder"  // the generation that finishes its requests
	upgrade      kind = "upgrade"
	failUpgrade  kind = "fail-upgrade" // at a failpoint
	reload       kind = "reload"
	hup          kind = "hup"
	badReload    kind = "bad-reload"
	reopenLogs   kind = "usr1"
	drainWorker  kind = "drain"
	resumePool   kind = "resume"
	stopWorker   kind = "stop"
	restartOne   kind = "restart-worker"
	restartPool  kind = "restart-pool"
	scalePool    kind = "scale"
	crashAtStart kind = "crash-at-start" // engines exit at their start for a while
	burst        kind = "burst"          // many requests at once
)

var weights = []struct {
	kind   kind
	weight int
}{
	{killEngine, 12},
	{exitEngine, 10},
	{pauseEngine, 6},
	{killKeeper, 4},
	{pauseKeeper, 2},
	{killMaster, 4},
	{pauseMaster, 2},
	{stopMaster, 1},
	{killElder, 2},
	{upgrade, 5},
	{failUpgrade, 3},
	{reload, 8},
	{hup, 3},
	{badReload, 2},
	{reopenLogs, 1},
	{drainWorker, 4},
	{resumePool, 5},
	{stopWorker, 1},
	{restartOne, 3},
	{restartPool, 2},
	{scalePool, 4},
	{crashAtStart, 2},
	{burst, 4},
}

// event is one thing that is done to the stack. Which of several it is done to
// is a number, since what there will be then nobody knows beforehand.
type event struct {
	at   time.Duration // from the round's begin
	kind kind
	pick int           // of the candidates there are, modulo their number
	how  int           // which variant, modulo theirs
	long time.Duration // for those that last
}

func (e event) String() string {
	return fmt.Sprintf("%s pick %d how %d long %v", e.kind, e.pick, e.how, e.long)
}

// ofMasters are the kinds after which another master serves. Each second round
// does without them: what a master leaks would else go with it before anybody looks.
var ofMasters = []kind{killMaster, stopMaster, upgrade, failUpgrade}

// schedule is what is done in a round; it follows from the options alone.
func schedule(o options, round int) []event {
	chance := rand.New(rand.NewPCG(o.seed, uint64(round)))
	var events []event
	for at := time.Duration(0); ; {
		at += time.Duration(chance.ExpFloat64() * float64(o.pace))
		// All are drawn, whatever is wanted of them, so that leaving kinds out
		// moves nothing.
		e := event{at: at, kind: draw(chance), pick: chance.IntN(1000), how: chance.IntN(1000), long: time.Duration(chance.IntN(1500)) * time.Millisecond}
		if at >= o.round {
			return events
		}
		if round%2 == 1 && slices.Contains(ofMasters, e.kind) {
			continue
		}
		if o.only == "" || slices.Contains(strings.Split(o.only, ","), string(e.kind)) {
			events = append(events, e)
		}
	}
}

func draw(chance *rand.Rand) kind {
	sum := 0
	for _, w := range weights {
		sum += w.weight
	}
	n := chance.IntN(sum)
	for _, w := range weights {
		if n -= w.weight; n < 0 {
			return w.kind
		}
	}
	panic("weights do not add up")
}
