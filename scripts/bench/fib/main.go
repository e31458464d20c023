// fib: fib(30) on two goroutines at once, each TIMES, against one.
//
//	main TIMES
package main

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

func fib(n int) int {
	if n < 2 {
		return n
	}
	return fib(n-1) + fib(n-2)
}

func run(workers, times int) float64 {
	var all sync.WaitGroup
	start := time.Now()
	for i := 0; i < workers; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			for k := 0; k < times; k++ {
				if fib(30) != 832040 {
					panic("wrong")
				}
			}
		}()
	}
	all.Wait()
	return float64(time.Since(start).Nanoseconds())
}

func main() {
	times, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	one, two := run(1, times), run(2, times)
	fmt.Printf("scale %.4f ms %.3f\n", two/one, one/1e6/float64(times))
}
