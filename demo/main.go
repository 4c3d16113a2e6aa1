// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

// Command demo shows the gateway at work, in one process and with nothing to install: an authorization server whose access
// tokens live for seconds, an API that checks them, a page that calls the API and draws what happens, and Caddy with the
// gateway in front, running the repository's Caddyfile.example.
//
//	go run -C demo .
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var options options
	flag.IntVar(&options.port, "port", 8080, "`port` of the page; the next free one where it is taken, any with 0")
	flag.DurationVar(&options.tokenLifetime, "token-lifetime", 15*time.Second, "lifetime of access tokens, in whole seconds")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C does not wait
	if err := run(ctx, options, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// run runs the demo until ctx is done or the gateway cannot be restarted.
func run(ctx context.Context, options options, out io.Writer) error {
	d, err := newDemo(options)
	if err != nil {
		return err
	}
	return serve(ctx, d, options, out)
}

// serve starts the gateway of d, says where the page is, and closes d at the end.
func serve(ctx context.Context, d *demo, options options, out io.Writer) error {
	if err := d.gateway.start(); err != nil {
		return errors.Join(err, d.close())
	}
	fmt.Fprintf(out, `
  Open      %s

  User      %s
  Password  %s

  Access tokens live %s. Logs are in %s
  Press Ctrl-C to stop.

`, d.address, users[0].Username, users[0].Password, options.tokenLifetime, d.data)

	var err error
	select {
	case <-ctx.Done():
	case err = <-d.failed:
	}
	return errors.Join(err, d.close())
}
