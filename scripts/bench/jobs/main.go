// jobs: functions that do nothing, on two goroutines, by channels.
//
//	main flight JOBS BATCH
//	main one JOBS
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"
)

type job func() int

func argument(i int) int {
	n, err := strconv.Atoi(os.Args[i])
	if err != nil {
		panic(err)
	}
	return n
}

func main() {
	mode, jobs, batch := os.Args[1], argument(2), 1
	if mode == "flight" {
		batch = argument(3)
	}
	queue := make(chan job, batch)
	results := make(chan int, batch)
	for i := 0; i < 2; i++ {
		go func() {
			for f := range queue {
				results <- f()
			}
		}()
	}
	nothing := func() int { return 0 }
	start := time.Now()
	for i := 0; i < jobs; i += batch {
		for k := 0; k < batch; k++ {
			queue <- nothing
		}
		for k := 0; k < batch; k++ {
			<-results
		}
	}
	spent := float64(time.Since(start).Nanoseconds())
	if mode == "one" {
		fmt.Printf("us %.3f\n", spent/1e3/float64(jobs))
	} else {
		fmt.Printf("ns %.3f\n", spent/float64(jobs))
	}
}
