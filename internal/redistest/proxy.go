// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redistest

import (
	"bufio"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Fault is what the proxy does to one command. The zero value passes it on.
type Fault struct {
	// LoseRequest cuts the connection instead of passing the command on.
	LoseRequest bool
	// LoseReply passes the command on, and cuts the connection when the reply
	// has come.
	LoseReply bool
	// Answer is given in the server's place: a line such as
	// "-OOM command not allowed". In a transaction the whole of it fails, as
	// with the server.
	Answer string
	// Delay is how long the command is on its way to the server. As on a long
	// line, those that come after it do not overtake it, and the delays of several
	// do not add up.
	Delay time.Duration
}

// Proxy stands between clients and one server.
type Proxy struct {
	backend  string
	listener net.Listener
	dead     atomic.Bool
	accepted atomic.Int64

	mu    sync.Mutex
	rule  func(command []string) Fault
	conns map[*proxyConn]struct{}
	woken chan struct{} // closed when it is no longer dead
	wg    sync.WaitGroup
}

// NewProxy starts a proxy before the server at an address.
func NewProxy(t testing.TB, backend string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{backend: backend, listener: l, conns: make(map[*proxyConn]struct{}), woken: make(chan struct{})}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Revive()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Address is host:port.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Accepted is how many connections there have been.
func (p *Proxy) Accepted() int64 { return p.accepted.Load() }

// Rule decides on every command from now on; its first word is in capitals. nil
// passes everything on. It is called by one connection at a time.
func (p *Proxy) Rule(rule func(command []string) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = rule
}

func (p *Proxy) fault(command []string) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rule == nil {
		return Fault{}
	}
	return p.rule(command)
}

// Die makes the proxy a black hole: it accepts connections, keeps those that it
// has, and passes nothing on, in no direction, until Revive.
func (p *Proxy) Die() { p.dead.Store(true) }

// Revive ends what Die began. What was held up goes on.
func (p *Proxy) Revive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dead.Swap(false) {
		close(p.woken)
		p.woken = make(chan struct{})
	}
}

func (p *Proxy) whileDead() {
	for {
		p.mu.Lock()
		woken := p.woken
		p.mu.Unlock()
		if !p.dead.Load() {
			return
		}
		<-woken
	}
}

// Cut closes all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.close()
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.accepted.Add(1)
		p.wg.Go(func() {
			p.whileDead()
			server, err := net.DialTimeout("tcp", p.backend, time.Second)
			if err != nil {
				_ = client.Close()
				return
			}
			c := &proxyConn{p: p, client: client, server: server}
			p.mu.Lock()
			p.conns[c] = struct{}{}
			p.mu.Unlock()
			p.wg.Go(c.replies)
			c.requests()
			p.mu.Lock()
			delete(p.conns, c)
			p.mu.Unlock()
		})
	}
}

// proxyConn is one client's connection with its own to the server.
type proxyConn struct {
	p              *Proxy
	client, server net.Conn

	mu      sync.Mutex
	pending []pendingReply
	aborted bool // the transaction that the client is in
	inside  bool // a transaction
}

// pendingReply is what has to go to the client, in order.
type pendingReply struct {
	answer string // in the server's place
	lose   bool   // cut when it has come
}

func (c *proxyConn) close() {
	_ = c.client.Close()
	_ = c.server.Close()
}

// request is a command on its way to the server.
type request struct {
	command []string
	raw     []byte
	fault   Fault
	arrival time.Time
}

// read takes in what the client asks, until the connection ends.
func (c *proxyConn) read(requests chan<- request, gone <-chan struct{}) {
	defer close(requests)
	r := bufio.NewReader(c.client)
	for {
		f, err := readFrame(r)
		if err != nil {
			return
		}
		command, err := f.command()
		if err != nil {
			return
		}
		fault := c.p.fault(command)
		c.p.whileDead()
		select {
		case requests <- request{command, f.raw, fault, time.Now().Add(fault.Delay)}:
		case <-gone:
			return
		}
		if fault.LoseRequest { // the connection ends with it
			return
		}
	}
}

// requests passes on what the client asks.
func (c *proxyConn) requests() {
	defer c.close()
	requests, gone := make(chan request, 1000), make(chan struct{})
	defer close(gone)
	c.p.wg.Go(func() { c.read(requests, gone) })
	for r := range requests {
		time.Sleep(time.Until(r.arrival))
		c.p.whileDead()
		if r.fault.LoseRequest {
			return
		}
		switch {
		case r.command[0] == "MULTI":
			c.inside, c.aborted = true, false
		case r.command[0] == "EXEC" && c.inside:
			c.inside = false
			if c.aborted {
				r.raw = encodeCommand([]string{"DISCARD"})
			}
		}
		if r.fault.Answer != "" {
			c.aborted = c.aborted || c.inside
			if !c.expect(pendingReply{answer: r.fault.Answer}) {
				return
			}
			continue
		}
		reply := pendingReply{lose: r.fault.LoseReply}
		if r.command[0] == "EXEC" && c.aborted {
			c.aborted = false
			reply.answer = "-EXECABORT Transaction discarded because of previous errors."
			reply.lose = true // the answer to DISCARD is ours
		}
		if reply.answer != "" {
			if !c.expect(pendingReply{answer: reply.answer}) || !c.expect(pendingReply{answer: swallow}) {
				return
			}
		} else if !c.expect(reply) {
			return
		}
		if _, err := c.server.Write(r.raw); err != nil {
			return
		}
	}
}

// swallow stands for a reply of the server that does not go to the client.
const swallow = "\x00"

// expect queues a reply, and gives those in the server's place as soon as it is
// their turn.
func (c *proxyConn) expect(r pendingReply) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pending = append(c.pending, r)
	return c.giveOurs()
}

func (c *proxyConn) giveOurs() bool {
	for len(c.pending) > 0 && c.pending[0].answer != "" && c.pending[0].answer != swallow {
		if _, err := c.client.Write([]byte(c.pending[0].answer + "\r\n")); err != nil {
			return false
		}
		c.pending = c.pending[1:]
	}
	return true
}

func (c *proxyConn) replies() {
	defer c.close()
	r := bufio.NewReader(c.server)
	for {
		f, err := readFrame(r)
		if err != nil {
			return
		}
		c.p.whileDead()
		c.mu.Lock()
		ok := c.reply(f)
		c.mu.Unlock()
		if !ok {
			return
		}
	}
}

func (c *proxyConn) reply(f frame) bool {
	if f.kind == '>' { // pushed, no reply
		_, err := c.client.Write(f.raw)
		return err == nil
	}
	if len(c.pending) == 0 {
		return false
	}
	next := c.pending[0]
	c.pending = c.pending[1:]
	if next.lose {
		return false
	}
	if next.answer != swallow {
		if _, err := c.client.Write(f.raw); err != nil {
			return false
		}
	}
	return c.giveOurs()
}
