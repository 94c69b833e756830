package supervisor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"stoker/config"
)

// devices is a list of GPUs as CUDA_VISIBLE_DEVICES names them, and whence it is known.
type devices struct {
	names  []string
	source string
}

// deviceFinder finds the GPUs of this machine; a test has its own.
type deviceFinder func() devices

// visibleDevices are the GPUs that this master may use: what its own
// CUDA_VISIBLE_DEVICES says, else what nvidia-smi lists, else the device files.
func visibleDevices() devices {
	if list, ok := os.LookupEnv("CUDA_VISIBLE_DEVICES"); ok {
		return devices{splitDevices(list, ","), "CUDA_VISIBLE_DEVICES"}
	}
	// A driver in trouble can hang it for ever.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	command := exec.CommandContext(ctx, "nvidia-smi", "--query-gpu=index", "--format=csv,noheader")
	command.WaitDelay = time.Second
	if out, err := command.Output(); err == nil {
		return devices{splitDevices(string(out), "\n"), "nvidia-smi"}
	}
	files, _ := filepath.Glob("/dev/nvidia[0-9]*") // a constant pattern is never malformed
	for i, file := range files {
		files[i] = strings.TrimPrefix(file, "/dev/nvidia")
	}
	slices.SortFunc(files, func(a, b string) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return strings.Compare(a, b)
	})
	return devices{files, "/dev/nvidia*"}
}

func splitDevices(list, separator string) []string {
	var names []string
	for name := range strings.SplitSeq(list, separator) {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// assignDevices gives each worker of each pool its GPUs, by pool name and
// index. A pool with a list of its own deals from that, whatever others do: two
// small models may share one device on purpose. Pools without one share the
// visible ones that no list names, no device twice.
func assignDevices(pools []config.Pool, find deviceFinder) (map[string][][]string, error) {
	assigned := make(map[string][][]string)
	listed := make(map[string]bool)
	for _, p := range pools {
		for _, name := range p.GPUs {
			listed[name] = true
		}
	}
	var common *devices
	for _, p := range pools {
		if p.GPUsPerWorker <= 0 || p.Remote() {
			continue
		}
		own := devices{p.GPUs, "pools.gpus"}
		from := &own
		if len(p.GPUs) == 0 {
			if common == nil {
				found := find()
				found.names = slices.DeleteFunc(found.names, func(name string) bool { return listed[name] })
				common = &found
			}
			from = common
		}
		need := p.Workers * p.GPUsPerWorker
		if len(from.names) < need {
			return nil, tooFewDevices(p, need, *from)
		}
		assigned[p.Name] = slices.Collect(slices.Chunk(from.names[:need], p.GPUsPerWorker))
		from.names = from.names[need:]
	}
	return assigned, nil
}

func tooFewDevices(p config.Pool, need int, left devices) error {
	names := "none"
	if len(left.names) > 0 {
		names = strings.Join(left.names, ",")
	}
	return fmt.Errorf("pool %s: %d workers with %d GPUs each need %d, but left are %s (according to %s); lower workers or gpus_per_worker, or list devices in gpus",
		p.Name, p.Workers, p.GPUsPerWorker, need, names, left.source)
}
