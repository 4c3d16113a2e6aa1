// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"strings"
	"testing"
)

// plan is a test plan of the OpenID Foundation.
type plan struct {
	name     string // the official one; in none of its plans: ""
	title    string
	needs    string // what a gateway needs for it, in the document
	variants []variant
	modules  []module
}

// variant is one of the ways in which all modules of a plan are run: how the client
// authenticates, what binds its tokens, how requests and responses travel.
type variant struct {
	name    string // as in a subtest
	says    string // in the document; "" where there is one variant alone
	setting func() setting
	// without are the modules that the suite leaves out in this variant, and why.
	without map[string]string
}

// module is one test of a plan.
type module struct {
	name string // the official one
	sent string // what the authorization server does, for the document
	// inapplicable says why the module is no question to this gateway; "": it is.
	inapplicable string
	// as makes the authorization server misbehave, from the start.
	as func(*astestOptions)
	// bff are further options of the Caddyfile.
	bff string
	// setting is used in place of the variant's; nil: that of the variant.
	setting func() setting
	// run goes through the scenario, judges, and says what it sees; nil where every
	// variant leaves the module out.
	run func(*scenario)
}

// plans are all plans, in the order of the document.
func plans() []plan {
	return []plan{
		basicPlan(), formPostPlan(), configPlan(), refreshPlan(),
		rpInitiatedLogoutPlan(), backChannelLogoutPlan(), frontChannelLogoutPlan(), sessionManagementPlan(),
		thirdPartyInitiatedLoginPlan(), securityProfilePlan(), messageSigningPlan(), dynamicPlan(), noPlan(),
	}
}

// TestPlans runs every module of every plan, by plan/module/variant, and compares
// the document with what was seen.
func TestPlans(t *testing.T) {
	d := newDocument()
	for _, p := range plans() {
		d.plan(&p)
		t.Run(p.subtest(), func(t *testing.T) {
			for _, m := range p.modules {
				if why := p.leavesOut(&m); why != "" {
					d.row(&m, []sight{{missing: why}})
					continue
				}
				t.Run(m.name, func(t *testing.T) { d.row(&m, m.seeAll(t, &p)) })
			}
		})
	}
	if !t.Failed() {
		d.compare(t)
	}
}

func (p *plan) subtest() string {
	if p.name == "" {
		return "in-no-plan"
	}
	return p.name
}

// leavesOut says why a module is run in no variant at all; "": it is run.
func (p *plan) leavesOut(m *module) (why string) {
	if m.inapplicable != "" {
		return m.inapplicable
	}
	for _, v := range p.variants {
		if why = v.without[m.name]; why == "" {
			return ""
		}
	}
	return why
}

// seeAll runs the module in every variant that the suite has it in.
func (m *module) seeAll(t *testing.T, p *plan) []sight {
	var all []sight
	for _, v := range p.variants {
		if why := v.without[m.name]; why != "" {
			all = append(all, sight{variant: v.says, missing: why})
			continue
		}
		one := sight{variant: v.says}
		run := func(t *testing.T) { one.seen = m.see(t, &v) }
		if v.name == "" {
			run(t)
		} else {
			t.Run(v.name, run)
		}
		all = append(all, one)
	}
	return all
}

// see runs the module once.
func (m *module) see(t *testing.T, v *variant) string {
	set := v.setting()
	if m.setting != nil {
		set = m.setting()
	}
	set.bff += "\n" + m.bff
	if m.as != nil {
		m.as(&set.as)
	}
	s := begin(t, set)
	m.run(s)
	s.silent()
	return strings.Join(s.seen, "; ")
}
