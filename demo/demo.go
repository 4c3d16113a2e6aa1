// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/caddy-bff/caddy-bff/demo/authserver"
	"github.com/caddy-bff/caddy-bff/demo/journal"
	"github.com/caddy-bff/caddy-bff/demo/resourceserver"
)

// users are who can sign in; the first is the one that the demo tells of.
var users = []authserver.User{
	{ID: "alice", Username: "alice", Password: "wonderland", Name: "Alice Liddell", Email: "alice@example.com"},
	{ID: "bob", Username: "bob", Password: "builder", Name: "Bob Builder", Email: "bob@example.com"},
}

// options are what the command line sets.
type options struct {
	port          int
	tokenLifetime time.Duration
}

// demo is everything in this process.
type demo struct {
	address string   // of the page
	data    string   // directory of what is written, removed at the end
	log     *os.File // of the authorization server

	authorizationServer *authserver.Server
	resourceServer      *resourceserver.Server
	gateway             *gateway
	failed              chan error // the gateway could not be restarted
}

// newDemo starts the authorization server and the resource server, and makes the gateway ready to start.
func newDemo(options options) (_ *demo, err error) {
	if options.tokenLifetime < time.Second || options.tokenLifetime%time.Second != 0 {
		return nil, errors.New("the lifetime of access tokens must be whole seconds, and not 0")
	}
	source, err := sourceDirectory()
	if err != nil {
		return nil, err
	}
	port, err := freePort(options.port)
	if err != nil {
		return nil, err
	}
	d := &demo{address: "http://localhost:" + strconv.Itoa(port), failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	if d.data, err = os.MkdirTemp("", "caddy-bff-demo-"); err != nil {
		return nil, err
	}
	if d.log, err = os.Create(filepath.Join(d.data, "authorization-server.log")); err != nil {
		return nil, err
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(d.log, nil))) // where the authorization server logs

	secret, secretFile := rand.Text(), filepath.Join(d.data, "client_secret")
	if err = os.WriteFile(secretFile, []byte(secret), 0o600); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("resource server: %w", err)
	}
	j, api := &journal.Journal{}, listener.Addr().String()
	client := authserver.Client{
		ID: "demo", Secret: secret,
		RedirectURI: d.address + "/bff/callback", PostLogoutRedirectURI: d.address + "/bff/logout/callback",
	}
	d.authorizationServer, err = authserver.Start(authserver.Config{
		Audience: "http://" + api, AccessTokenLifetime: options.tokenLifetime,
		Clients: []authserver.Client{client}, Users: users, Journal: j,
	})
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	d.resourceServer = resourceserver.Start(resourceserver.Config{
		Listener: listener, Audience: "http://" + api, AuthorizationServer: d.authorizationServer,
		Restart: d.restart, Journal: j,
	})
	d.gateway, err = newGateway(filepath.Join(source, "..", "Caddyfile.example"), d.data, map[string]string{
		"BFF_ADMIN":              "off",
		"BFF_LOG":                "file " + strconv.Quote(filepath.Join(d.data, "gateway.log")),
		"BFF_ACCESS_LOG":         "file " + strconv.Quote(filepath.Join(d.data, "access.log")),
		"BFF_SITE":               d.address,
		"BFF_BIND":               "127.0.0.1",
		"BFF_ISSUER":             d.authorizationServer.Issuer(),
		"BFF_CLIENT_ID":          client.ID,
		"BFF_CLIENT_SECRET_FILE": secretFile,
		"BFF_API":                api,
		"BFF_ROOT":               strconv.Quote(filepath.Join(source, "spa")),
	}, j)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// sourceDirectory returns the directory of this program's source: the page and the Caddyfile are read there.
func sourceDirectory() (string, error) {
	directory, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for _, needed := range []string{"spa/index.html", "../Caddyfile.example"} {
		if _, err := os.Stat(filepath.Join(directory, filepath.FromSlash(needed))); err != nil {
			return "", fmt.Errorf("%w\nrun it at the root of the repository: go run -C demo .", err)
		}
	}
	return directory, nil
}

// restart restarts the gateway for the page's button.
func (d *demo) restart() {
	if err := d.gateway.restart(); err != nil {
		d.failed <- err
	}
}

// close stops what runs and removes what was written. It may be called on a demo that is not complete.
func (d *demo) close() error {
	var errs []error
	if d.gateway != nil {
		errs = append(errs, d.gateway.stop())
	}
	if d.resourceServer != nil {
		errs = append(errs, d.resourceServer.Close())
	}
	if d.authorizationServer != nil {
		errs = append(errs, d.authorizationServer.Close())
	}
	if d.log != nil {
		errs = append(errs, d.log.Close())
	}
	if d.data != "" {
		errs = append(errs, os.RemoveAll(d.data))
	}
	return errors.Join(errs...)
}
