package cordon

// Answer is what was found out about something; only yes and no are conclusive.
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"
	Unknown Answer = "unknown"
)

// Coverage is what an enforcer knows of one way to run code on its machine, or
// of the file systems of one kind that are mounted there.
type Coverage struct {
	// What is the way, whose answer is whether it is judged ("libraries and other
	// files mapped as code"), or files, whose answer is whether they can be
	// trusted: "files on ext4 (/, /home)". What cannot is always refused.
	What   string `json:"what"`
	Answer Answer `json:"answer"`
	Reason string `json:"reason"` // without a full stop
}
