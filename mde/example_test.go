package mde_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/cordon-project/cordon/mde"
)

// example is a server that gives a token, and an action that has succeeded when
// it is asked about.
func example() *httptest.Server {
	const action = `{"id":"01f7d891-1234-4678-8bcd-abcdefa2edf3","type":"RestrictCodeExecution","status":"%s"}`
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/token"):
			_, _ = io.WriteString(w, `{"token_type":"Bearer","expires_in":3599,"access_token":"x.y.z"}`)
		case r.Method == http.MethodPost:
			w.WriteHeader(http.StatusCreated)
			_, _ = fmt.Fprintf(w, action, mde.Pending)
		case strings.HasPrefix(r.URL.Path, "/api/machineactions/"):
			_, _ = fmt.Fprintf(w, action, mde.Succeeded)
		default:
			_, _ = io.WriteString(w, `{"value":[{"id":"34750f98bd59fcfc946da45aaabe933be154a4b5","computerDnsName":"web-01.example.org"}]}`)
		}
	}))
}

// Restrict a machine and wait until it says that it is.
func Example() {
	server := example() // yours is https://cordon.example.org
	defer server.Close()
	client, err := mde.New(mde.Config{BaseURL: server.URL, TenantID: "tenant", ClientID: "client", ClientSecret: "secret"})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	action, err := client.Restrict(ctx, "web-01.example.org", "ransomware on the share")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(action.Status)
	action, err = client.WaitAction(ctx, action.ID, mde.WaitOptions{Timeout: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(action.Status)
	// Output:
	// Pending
	// Succeeded
}

// List the machines whose names begin so, page after page as far as the loop goes.
func ExampleClient_ListMachines() {
	server := example()
	defer server.Close()
	client, err := mde.New(mde.Config{BaseURL: server.URL, TenantID: "tenant", ClientID: "client", ClientSecret: "secret"})
	if err != nil {
		log.Fatal(err)
	}
	for machine, err := range client.ListMachines(context.Background(), mde.ListOptions{Filter: "startswith(computerDnsName,'web-')"}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(*machine.ComputerDNSName)
	}
	// Output: web-01.example.org
}
