// spawn_process: starting /bin/true and waiting for its end, some at a time.
//
//	main SPAWNS AT_ONCE MIB
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

func argument(i int) int64 {
	n, err := strconv.ParseInt(os.Args[i], 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func main() {
	spawns, atOnce := argument(1), argument(2)
	memory := make([]byte, argument(3)<<20)
	for i := range memory {
		memory[i] = 1
	}
	left := spawns
	var workers sync.WaitGroup
	start := time.Now()
	for i := int64(0); i < atOnce; i++ {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for atomic.AddInt64(&left, -1) >= 0 {
				if err := exec.Command("/bin/true").Run(); err != nil {
					panic(err)
				}
			}
		}()
	}
	workers.Wait()
	spent := time.Since(start)
	fmt.Printf("us %.2f\n", float64(spent.Nanoseconds())/1e3/float64(spawns))
	runtime.KeepAlive(memory)
}
