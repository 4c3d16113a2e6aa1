// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"crypto/subtle"

	"github.com/zitadel/oidc/v3/pkg/oidc"
)

// User is an end user who can sign in.
type User struct {
	ID       string // the claim sub
	Username string
	Password string
	Name     string
	Email    string
}

// matches reports whether the password is the user's.
func (u User) matches(password string) bool {
	return subtle.ConstantTimeCompare([]byte(u.Password), []byte(password)) == 1
}

// describe fills in the claims that the scopes ask for.
func (u User) describe(info *oidc.UserInfo, scopes []string) {
	info.Subject = u.ID
	for _, scope := range scopes {
		switch scope {
		case oidc.ScopeProfile:
			info.PreferredUsername, info.Name = u.Username, u.Name
		case oidc.ScopeEmail:
			info.Email, info.EmailVerified = u.Email, true
		}
	}
}
