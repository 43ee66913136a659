package mde_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/cordon-project/cordon/mde"
)

// Restrict a machine and wait until it says that it is.
func Example() {
	client, err := mde.New(mde.Config{
		BaseURL:      "https://cordon.example.org",
		TenantID:     os.Getenv("CORDON_TENANT_ID"),
		ClientID:     os.Getenv("CORDON_CLIENT_ID"),
		ClientSecret: os.Getenv("CORDON_CLIENT_SECRET"),
	})
	if err != nil {
		log.Fatal(err)
	}
	ctx := context.Background()
	action, err := client.Restrict(ctx, "web-01.example.org", "ransomware on the share")
	if err != nil {
		log.Fatal(err)
	}
	action, err = client.WaitAction(ctx, action.ID, mde.WaitOptions{Timeout: time.Minute})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(action.Status)
}
