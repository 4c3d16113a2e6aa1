// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package conformance

import (
	"net/http"

	"github.com/caddy-bff/caddy-bff/internal/astest"
)

// formPostPlan is Basic RP by the response mode of forms: CB-10 and CK-06 from outside.
func formPostPlan() plan {
	return plan{
		name: "oidcc-client-formpost-basic-certification-test-plan", title: "Form Post Basic RP",
		needs: "Needs `response_mode form_post` and `userinfo on`. All modules of Basic RP, whose responses come by a form that the browser posts, and one more.",
		variants: []variant{{setting: func() setting {
			set := basicSetting()
			set.bff += "\nresponse_mode form_post"
			return set
		}}},
		modules: append(basicModules(), module{
			name: "oidcc-client-test-form-post-error", sent: "`login?prompt=none&max_age=0` is answered with the error `login_required`",
			as: func(o *astestOptions) { o.AuthorizeError = "login_required" },
			run: func(s *scenario) {
				way := s.clickAt(s.home, s.home+"/bff/login?return_to=/after&prompt=none&max_age=0")
				last, callback := way[len(way)-1], s.callback(way)
				if s.user() != nil || last.url.RequestURI() != "/after?bff_error=login_required" || callback.Request.Method != http.MethodPost {
					s.t.Errorf("%s callback %d, then %s", callback.Request.Method, callback.StatusCode, last.url.RequestURI())
				}
				if q := s.as.Requests(astest.Authorize)[0].Form; q.Get("prompt") != "none" || q.Get("max_age") != "0" {
					s.t.Errorf("asked: %v", q)
				}
				s.asked(0, 0)
				s.see("callback %d, nobody is signed in, the application is told at `%s`", callback.StatusCode, last.url.RequestURI())
				s.counts(s.questions()...)
			},
		}),
	}
}
