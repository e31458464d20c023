// files: reads COUNT files of 4 KiB, AT_ONCE at a time. The floor makes them.
//
//	main COUNT AT_ONCE
package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const rounds = 2

func argument(i int) int64 {
	n, err := strconv.ParseInt(os.Args[i], 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

func round(directory string, count, atOnce int64) {
	var name, bytes int64
	var readers sync.WaitGroup
	for i := int64(0); i < atOnce; i++ {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for n := atomic.AddInt64(&name, 1); n <= count; n = atomic.AddInt64(&name, 1) {
				text, err := os.ReadFile(directory + strconv.FormatInt(n, 10))
				if err != nil {
					panic(err)
				}
				atomic.AddInt64(&bytes, int64(len(text)))
			}
		}()
	}
	readers.Wait()
	if bytes != count*4096 {
		panic("wrong number of bytes")
	}
}

func main() {
	count, atOnce := argument(1), argument(2)
	directory := fmt.Sprintf("/tmp/perilune-bench-files-%d/", count)
	round(directory, count, atOnce)
	start := time.Now()
	for i := 0; i < rounds; i++ {
		round(directory, count, atOnce)
	}
	spent := float64(time.Since(start).Nanoseconds())
	fmt.Printf("us %.3f\n", spent/1e3/float64(rounds*count))
}
