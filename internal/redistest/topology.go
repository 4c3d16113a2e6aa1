// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package redistest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// MasterName is the name under which sentinels know their primary.
const MasterName = "sessions"

// Group is a primary with replicas, and sentinels that watch over them.
type Group struct {
	Servers   []*Server // the first is the primary to begin with
	Sentinels []*Server
}

// StartGroup runs a group. Sentinels take a primary for down after two seconds
// and need two of three to agree. With a second or less, each of them takes every
// primary for down that it has just been told of, for a moment: it pings it after
// that time for the first time. Where two do so at once, they replace the new
// primary, which lives, by another.
func StartGroup(t testing.TB, replicas int) *Group {
	t.Helper()
	g := &Group{Servers: []*Server{Start(t)}}
	primary := g.Servers[0]
	for range replicas {
		g.Servers = append(g.Servers, Start(t, "--replicaof", "127.0.0.1 "+strconv.Itoa(primary.port)))
	}
	for range 3 {
		s := newServer(t)
		conf := filepath.Join(s.dir, "sentinel.conf")
		lines := []string{
			fmt.Sprintf("port %d", s.port), "bind 127.0.0.1", "dir " + s.dir,
			fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 2", MasterName, primary.port),
			"sentinel down-after-milliseconds " + MasterName + " 2000",
			"sentinel failover-timeout " + MasterName + " 3000",
		}
		if err := os.WriteFile(conf, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.start(conf, "--sentinel")
		g.Sentinels = append(g.Sentinels, s)
	}
	for _, s := range g.Sentinels {
		Eventually(t, "the sentinels know of each other and the replicas", func() error {
			reply, err := s.Do("SENTINEL", "MASTER", MasterName)
			if err != nil {
				return err
			}
			fields := strings.Split(reply, "\n")
			for i := 0; i+1 < len(fields); i += 2 {
				switch want := ""; fields[i] {
				case "num-slaves":
					want = strconv.Itoa(replicas)
					fallthrough
				case "num-other-sentinels":
					if want == "" {
						want = "2"
					}
					if fields[i+1] != want {
						return fmt.Errorf("%s is %s", fields[i], fields[i+1])
					}
				}
			}
			return nil
		})
	}
	g.Synced(t, primary)
	return g
}

// Synced waits until every replica of the primary is up to date with it.
func (g *Group) Synced(t testing.TB, primary *Server) {
	t.Helper()
	Eventually(t, "replicas are in sync", func() error {
		info := primary.Must("INFO", "replication")
		if !strings.Contains(info, "role:master") {
			return errors.New("it is the primary no longer")
		}
		if n := strings.Count(info, "state=online"); n != len(g.Servers)-1 {
			return fmt.Errorf("%d replicas are online", n)
		}
		return nil
	})
}

// Rejoin starts a server of the group again that was killed, as a replica of the
// primary, and waits until it is up to date.
func (g *Group) Rejoin(t testing.TB, s, primary *Server) {
	t.Helper()
	s.Run()
	s.Must("REPLICAOF", "127.0.0.1", strconv.Itoa(primary.port))
	g.Synced(t, primary)
}

// Addresses are those of the sentinels.
func (g *Group) Addresses() []string { return addresses(g.Sentinels) }

// Primary gives the server that the sentinels name.
func (g *Group) Primary() (*Server, error) {
	for _, sentinel := range g.Sentinels {
		reply, err := sentinel.Do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MasterName)
		if err != nil {
			continue
		}
		for _, s := range g.Servers {
			if reply == "127.0.0.1\n"+strconv.Itoa(s.port) {
				return s, nil
			}
		}
	}
	return nil, errors.New("no sentinel names a primary")
}

// Cluster is a cluster of primaries without replicas.
type Cluster struct{ Nodes []*Server }

// StartCluster runs a cluster whose slots are spread evenly. args are for each
// node, as those of Start.
func StartCluster(t testing.TB, nodes int, args ...string) *Cluster {
	t.Helper()
	c := &Cluster{}
	for range nodes {
		c.Nodes = append(c.Nodes, Start(t, append([]string{
			"--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no",
		}, args...)...))
	}
	const slots = 16384
	for i, n := range c.Nodes {
		n.Must("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/nodes), strconv.Itoa((i+1)*slots/nodes-1))
		n.Must("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
	}
	for _, n := range c.Nodes[1:] {
		n.Must("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(c.Nodes[0].port))
	}
	for _, n := range c.Nodes {
		Eventually(t, "the cluster is up", func() error {
			info := n.Must("CLUSTER", "INFO")
			if !strings.Contains(info, "cluster_state:ok") || !strings.Contains(info, "cluster_slots_assigned:16384") ||
				!strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", nodes)) {
				return errors.New("not yet")
			}
			return nil
		})
	}
	return c
}

// Addresses are those of the nodes.
func (c *Cluster) Addresses() []string { return addresses(c.Nodes) }

// Owner gives the node that has a key, by asking it.
func (c *Cluster) Owner(t testing.TB, key string) *Server {
	t.Helper()
	for _, n := range c.Nodes {
		if reply, err := n.Do("EXISTS", key); err == nil && !strings.HasPrefix(reply, "-MOVED") {
			return n
		}
	}
	t.Fatalf("no node has %s", key)
	return nil
}

// Move takes the slot of key, and every key in it, from one node to another.
// between is called when half of it has happened: the slot is on its way.
func (c *Cluster) Move(t testing.TB, key string, from, to *Server, between func()) {
	t.Helper()
	slot := from.Must("CLUSTER", "KEYSLOT", key)
	to.Must("CLUSTER", "SETSLOT", slot, "IMPORTING", from.Must("CLUSTER", "MYID"))
	from.Must("CLUSTER", "SETSLOT", slot, "MIGRATING", to.Must("CLUSTER", "MYID"))
	move := func() {
		for {
			keys := from.Must("CLUSTER", "GETKEYSINSLOT", slot, "100")
			if keys == "" {
				return
			}
			for k := range strings.SplitSeq(keys, "\n") {
				from.Must("MIGRATE", "127.0.0.1", strconv.Itoa(to.port), k, "0", "5000")
			}
		}
	}
	move()
	if between != nil {
		between()
		move()
	}
	owner := to.Must("CLUSTER", "MYID")
	to.Must("CLUSTER", "SETSLOT", slot, "NODE", owner)
	for _, n := range c.Nodes {
		if n != to {
			n.Must("CLUSTER", "SETSLOT", slot, "NODE", owner)
		}
	}
}

func addresses(servers []*Server) []string {
	a := make([]string, len(servers))
	for i, s := range servers {
		a[i] = s.Address()
	}
	return a
}
