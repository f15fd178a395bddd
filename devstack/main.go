package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"syncline/devstack/internal/clickhouse"
	"syncline/devstack/internal/kafkaserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	p, _ := strconv.Atoi(os.Args[2])
	var err error
	switch os.Args[1] {
	case "kafka":
		err = kafkaserver.Run(ctx, kafkaserver.Options{Port: p, Dir: os.Args[3], Log: os.Stderr})
	case "clickhouse":
		err = clickhouse.Run(ctx, clickhouse.Options{Port: p, Dir: os.Args[3], Library: os.Args[4], Log: os.Stderr})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
