// Copyright the caddy-bff authors
// SPDX-License-Identifier: Apache-2.0

package authserver

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	loginPath     = "/login"
	signedOutPath = "/signed-out"
	stylePath     = "/login.css"
)

var (
	//go:embed login.html
	loginSource string
	//go:embed login.css
	loginStyle []byte

	loginTemplate = template.Must(template.New("login").Parse(loginSource))
)

// login is the page where the end user signs in.
type login struct {
	storage  *storage
	callback func(requestID string) string // where the browser goes when the user has signed in
}

// loginPage is what the template gets.
type loginPage struct {
	Title    string
	Message  string // something went wrong
	Request  string // ID of the authorization request; without it there is no form
	Username string
	Password string // filled in: this is a demo
	Users    []User
}

func newLogin(storage *storage, callback func(string) string) *login {
	return &login{storage: storage, callback: callback}
}

// register adds the endpoints. A form that another site sends is refused.
func (l *login) register(mux *http.ServeMux) {
	guard := http.NewCrossOriginProtection()
	mux.HandleFunc("GET "+loginPath, l.show)
	mux.Handle("POST "+loginPath, guard.Handler(http.HandlerFunc(l.submit)))
	mux.HandleFunc("GET "+signedOutPath, func(w http.ResponseWriter, r *http.Request) {
		l.render(w, http.StatusOK, "", loginPage{Title: "Signed out"})
	})
	mux.HandleFunc("GET "+stylePath, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/css; charset=utf-8")
		w.Write(loginStyle)
	})
}

// show shows the form.
func (l *login) show(w http.ResponseWriter, r *http.Request) {
	id := r.FormValue("request")
	a, ok := l.storage.authorizations.find(id)
	if !ok {
		l.expired(w)
		return
	}
	page := loginPage{Title: "Sign in", Request: id, Users: l.users()}
	for _, user := range page.Users {
		if page.Username == "" || user.Username == a.request.LoginHint {
			page.Username, page.Password = user.Username, user.Password
		}
	}
	l.render(w, http.StatusOK, origin(a.request.RedirectURI), page)
}

// submit checks user name and password and sends the browser on.
func (l *login) submit(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 16<<10)
	id, username, password := r.PostFormValue("request"), r.PostFormValue("username"), r.PostFormValue("password")
	a, ok := l.storage.authorizations.find(id)
	if !ok {
		l.expired(w)
		return
	}
	for _, user := range l.storage.users {
		if user.Username == username && user.matches(password) {
			if !l.storage.authorizations.authenticate(id, user.ID) {
				l.expired(w)
				return
			}
			http.Redirect(w, r, l.callback(id), http.StatusSeeOther)
			return
		}
	}
	l.render(w, http.StatusUnprocessableEntity, origin(a.request.RedirectURI), loginPage{
		Title: "Sign in", Message: "User name or password is wrong.", Request: id, Username: username, Users: l.users(),
	})
}

func (l *login) expired(w http.ResponseWriter) {
	l.render(w, http.StatusBadRequest, "", loginPage{
		Title: "Sign in", Message: "This sign-in has expired or was finished elsewhere. Go back to the application and start again.",
	})
}

// users returns the users, in the order of their names.
func (l *login) users() []User {
	users := make([]User, 0, len(l.storage.users))
	for _, user := range l.storage.users {
		users = append(users, user)
	}
	slices.SortFunc(users, func(a, b User) int { return strings.Compare(a.Username, b.Username) })
	return users
}

// render writes the page. Browsers apply form-action to the redirects that follow a form too, so the origin of the client
// that waits for its answer is allowed by name.
func (l *login) render(w http.ResponseWriter, status int, clientOrigin string, page loginPage) {
	var body bytes.Buffer
	if err := loginTemplate.Execute(&body, page); err != nil {
		http.Error(w, "the login page cannot be shown", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'self' "+clientOrigin)
	w.WriteHeader(status)
	w.Write(body.Bytes())
}

// origin returns scheme, host and port of a registered redirect URI.
func origin(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}
