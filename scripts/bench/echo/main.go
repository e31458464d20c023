// An echo server in Go: a goroutine for each connection.
package main

import (
	"fmt"
	"net"
)

func echo(connection net.Conn) {
	defer connection.Close()
	buffer := make([]byte, 65536)
	for {
		n, err := connection.Read(buffer)
		if err != nil {
			return
		}
		if _, err = connection.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func main() {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println("port", server.Addr().(*net.TCPAddr).Port)
	for {
		connection, err := server.Accept()
		if err != nil {
			panic(err)
		}
		go echo(connection)
	}
}
