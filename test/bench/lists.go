package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // fills the database faster than the server could

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/odata"
	"github.com/cordon-project/cordon/internal/store/sqlite"
	"github.com/cordon-project/cordon/test/bench/figures"
)

const (
	listedMachines = 1_000
	listed         = 1_000_000 // actions, one every ten seconds, in turn on each machine
)

// fillActions makes a history. The newest action of each machine is open, one in
// 5,000 has the rare status, and the rest ended well, failed or were cancelled.
const fillActions = `
	CREATE TEMP TABLE m AS SELECT row_number() OVER () - 1 AS n, id, dns_name FROM machines;
	CREATE UNIQUE INDEX temp.m_n ON m (n);
	WITH RECURSIVE a(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM a WHERE i < %[1]d)
	INSERT INTO actions (id, type, machine, dns_name, generation, requestor, requestor_id, comment, source, status, created, updated, expires, error_hresult, reason)
	SELECT lower(printf('%%s-%%s-4%%s-8%%s-%%s', hex(randomblob(4)), hex(randomblob(2)), substr(hex(randomblob(2)), 2), substr(hex(randomblob(2)), 2), hex(randomblob(6)))),
		CASE i / %[2]d %% 2 WHEN 0 THEN 'RestrictCodeExecution' ELSE 'UnrestrictCodeExecution' END, m.id, m.dns_name, (i - 1) / %[2]d + 1,
		'Playbook', '5f2b1a0e-8a1c-4b62-9d0e-1f6f6a1f2c3d', 'suspicious process seen by the SOC, ticket ' || i, 'PublicApi',
		CASE WHEN i > %[1]d - %[2]d THEN 'Pending' WHEN i %% 5000 = 7 THEN 'TimeOut' WHEN i %% 20 = 0 THEN 'Failed' WHEN i %% 50 = 1 THEN 'Cancelled' ELSE 'Succeeded' END,
		%[3]d + i * 100000000, %[3]d + i * 100000000 + CASE WHEN i > %[1]d - %[2]d THEN 0 ELSE 50000000 END, %[3]d + i * 100000000 + 2592000000000, 0, ''
	FROM a CROSS JOIN m ON m.n = i %% %[2]d`

// lists measures queries over HTTPS, one after the other.
func (b *bench) lists() {
	l := lab{cordon: b.cordon, disk: filepath.Join(b.disk, "lists")}
	check(os.Mkdir(l.disk, 0o700))
	defer func() { check(l.close()) }()
	l.server(b)
	check(l.running.stop())
	file := filepath.Join(l.disk, "server", "cordon.db")
	first := time.Now().Add(-listed * 10 * time.Second).Truncate(time.Second)
	began := time.Now()
	machines := b.fill(file, first)
	b.Figure(fmt.Sprintf("%d actions over %d machines", listed, listedMachines), "%.0f MB, written in %.0f s", mb(must(os.Stat(file)).Size()), time.Since(began).Seconds())

	random := func(n int) int { return int(must(rand.Int(rand.Reader, big.NewInt(int64(n)))).Int64()) }
	at := func(i int) string { return first.Add(time.Duration(i) * 10 * time.Second).UTC().Format(time.RFC3339) }
	of := func(query string) func() string { return func() string { return query } }
	machine := func(more string) func() string {
		return func() string { return "$filter=machineId eq '" + machines[random(len(machines))] + "'" + more }
	}
	queries := []struct {
		name   string
		target bool
		times  int
		query  func() string
	}{
		{"newest 50 of a machine", true, 300, machine("&$top=50")},
		{"… by $orderby=creationDateTimeUtc desc", false, 100, machine("&$top=50&$orderby=creationDateTimeUtc desc")},
		{"newest 50 that Succeeded", true, 300, of("$filter=status eq 'Succeeded'&$top=50")},
		{"newest 50 with TimeOut (one in 5,000)", true, 300, of("$filter=status eq 'TimeOut'&$top=50")},
		{"newest 50 that are Pending (of 1,000)", true, 300, of("$filter=status eq 'Pending'&$top=50")},
		{"50 of an hour", true, 300, func() string {
			i := random(listed - 360)
			return "$filter=creationDateTimeUtc ge " + at(i) + " and creationDateTimeUtc lt " + at(i+360) + "&$top=50"
		}},
		{"page 1,000 ($skip=49950&$top=50)", true, 300, of("$skip=49950&$top=50")},
		{"a page of 1,000 ($top=1000)", true, 300, of("$top=1000")},
		{"50 behind any position ($skiptoken)", true, 300, func() string {
			i := 1 + random(listed)
			return odata.Next("", cordon.Position{first.Add(time.Duration(i) * 10 * time.Second), int64(i)}, 50)
		}},
		{"50 changed since, oldest change first", true, 300, func() string {
			return "$filter=lastUpdateDateTimeUtc gt " + at(random(listed)) + "&$orderby=lastUpdateDateTimeUtc&$top=50"
		}},
		{"$skip=990000&$top=50", false, 20, of("$skip=990000&$top=50")},
		{"$count=true of all", false, 20, of("$count=true&$top=1")},
		{"$count=true of Succeeded", false, 20, of("$filter=status eq 'Succeeded'&$count=true&$top=1")},
		{"a page of 10,000 ($top=10000)", false, 10, of("$top=10000")},
	}
	plans := make([][]string, len(queries))
	store := must(sqlite.Open(b, file))
	for i, q := range queries {
		plans[i] = must(store.ActionsPlan(b, must(odata.Parse(strings.ReplaceAll(q.query(), " ", "+"), odata.MachineActions))))
	}
	check(store.Close())

	l.server(b)
	get := l.reader()
	for i, q := range queries {
		var took figures.Sample
		get(q.query()) // the kernel has the pages then
		for range q.times {
			query := q.query()
			began := time.Now()
			get(query)
			took = append(took, ms(time.Since(began)))
		}
		if q.target {
			b.Target(q.name+", p99", took.At(.99) <= 20, "≤ 20 ms", "%.2f ms (p50 %.2f)", took.At(.99), took.Median())
		} else {
			b.Figure(q.name+", p99", "%.2f ms (p50 %.2f)", took.At(.99), took.Median())
		}
		b.Say("      %s", strings.Join(plans[i], "; "))
	}
}

// fill writes the history into the database of a server that does not run, and
// returns the ids of its machines.
func (b *bench) fill(file string, first time.Time) (ids []string) {
	store := must(sqlite.Open(b, file))
	for i := range listedMachines {
		key := make(ed25519.PublicKey, ed25519.PublicKeySize) // nothing is verified with it
		_, _ = rand.Read(key)                                 // never fails, see crypto/rand
		m := cordon.Machine{
			ID: cordon.IDOfKey(key), DeviceID: cordon.DeviceIDOfKey(key), Key: key, FirstSeen: first, LastSeen: first,
			Facts: cordon.Facts{DNSName: fmt.Sprintf("bench-%d.invalid", i), OSPlatform: "Debian"},
		}
		must(store.EnrolMachine(b, m))
		ids = append(ids, string(m.ID))
	}
	check(store.Close())
	db := must(sql.Open("sqlite", file))
	defer func() { check(db.Close()) }()
	db.SetMaxOpenConns(1)
	must(db.ExecContext(b, "PRAGMA cache_size = -262144"))
	rows := must(db.QueryContext(b, "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = 'actions' AND sql IS NOT NULL"))
	var drop, create []string
	for rows.Next() {
		var name, text string
		check(rows.Scan(&name, &text))
		drop, create = append(drop, "DROP INDEX "+name), append(create, text)
	}
	check(rows.Err())
	must(db.ExecContext(b, "BEGIN; "+strings.Join(drop, "; ")+";"+fmt.Sprintf(fillActions, listed, listedMachines, cordon.Ticks(first))+"; "+strings.Join(create, "; ")+"; COMMIT"))
	must(db.ExecContext(b, "PRAGMA wal_checkpoint(TRUNCATE)"))
	return ids
}

// reader returns what reads a list of actions to the end of the answer.
func (l *lab) reader() func(query string) {
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: l.roots}, DisableCompression: true}, Timeout: time.Minute}
	answer := must(web.PostForm(l.boot.URL+"/"+l.boot.TenantID+"/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {l.boot.ClientID}, "client_secret": {l.boot.ClientSecret},
		"scope": {"https://api.securitycenter.microsoft.com/.default"},
	}))
	var token struct {
		Access string `json:"access_token"`
	}
	check(json.NewDecoder(answer.Body).Decode(&token))
	check(answer.Body.Close())
	return func(query string) {
		r := must(http.NewRequest(http.MethodGet, l.boot.URL+"/api/machineactions?"+strings.ReplaceAll(query, " ", "%20"), nil))
		r.Header.Set("Authorization", "Bearer "+token.Access)
		answer := must(web.Do(r))
		body := must(io.ReadAll(answer.Body))
		check(answer.Body.Close())
		if answer.StatusCode != http.StatusOK {
			check(fmt.Errorf("GET %s: %s: %.200s", query, answer.Status, body))
		}
	}
}
