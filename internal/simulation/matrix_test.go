// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"slices"
	"testing"
)

// The seeds from matrixBase on are the kill-point matrix of HARDENING G4, cell
// by cell: each policy, each step of a refresh, each thing that can go wrong
// there, some rounds of each.
const (
	matrixBase   = 1 << 32
	matrixRounds = 3
)

var policies = []policy{policyNone, policySame, policyGrace, policyChild, policySpent, policyStrict}

// cell is a place in the matrix; rounds of one cell follow each other.
type cell uint64

func matrixSize() cell { return cell(len(policies) * len(steps) * len(actions) * matrixRounds) }

func (c cell) policy() policy {
	return policies[int(c)/matrixRounds/len(actions)/len(steps)%len(policies)]
}

func (c cell) target() *target {
	n := int(c) / matrixRounds
	return &target{step: steps[n/len(actions)%len(steps)], action: actions[n%len(actions)], nth: 1 + int(c)%matrixRounds}
}

// cellSeed is the first seed of a cell.
func cellSeed(p policy, s step, a action) uint64 {
	n := (slices.Index(policies, p)*len(steps)+slices.Index(steps, s))*len(actions) + slices.Index(actions, a)
	return matrixBase + uint64(n*matrixRounds)
}

// HARDENING G4, F105, F204, F301, RF-01, RF-04, RF-07, RF-14: one fault at each
// step of a refresh, under each policy. Nothing is lost where the authorization
// server forgives; where it does not, only the session whose refresh it was.
func TestKillPoints(t *testing.T) {
	if *oneSeed != 0 || *worker {
		return
	}
	size := uint64(matrixSize())
	if underRace || testing.Short() {
		size = uint64(matrixSize()) / uint64(len(policies)) // the runs are the same, and there are enough others
	}
	all := runWorkers(t, matrixBase+uint64(matrixSize())-size, size)
	for _, f := range all.Failures {
		t.Error(f)
	}
	t.Log(all)
	if len(all.Failures) > 0 {
		return
	}
	for _, s := range steps {
		if all.Hits[string(s)] == 0 {
			t.Errorf("nothing ever went wrong at %q", s)
		}
	}
}
