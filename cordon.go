// Package cordon is the domain of Cordon, a self-hosted endpoint-response
// system: machines, machine actions, the orders and reports that carry them,
// trust sets, and who may do what.
//
// # What it owns
//
// The words and the decisions. Every decision that matters is a pure function
// of its arguments: [Action.Deliver], [Action.RequestCancel], [Action.Expire],
// [Action.Apply] (the state machine on the server) and [Judge] (what a machine
// does with an order), [JudgeLease] (when a restriction falls back). Time is always an argument. [Service] combines them
// with a [Store] and is what every edge calls.
//
// # What it promises
//
// It imports the standard library only and knows no wire format but its own
// two signed statements, [Order] and [Report]. Nothing that a [Store] has
// acknowledged is lost; a terminal action never changes; generations of one
// machine only grow.
package cordon
