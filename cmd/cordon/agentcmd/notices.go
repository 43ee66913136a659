package agentcmd

import (
	"log/slog"
	"time"

	"github.com/cordon-project/cordon/internal/cli"
	"github.com/cordon-project/cordon/internal/notice"
)

// notices starts what tells people, nil for nothing. That it cannot is no reason
// not to enforce.
func (c agentRun) notices(exe string, log *slog.Logger) *notice.Notices {
	if c.Notices == "off" || c.Enforcer == "none" {
		return nil
	}
	n, err := notice.Start(notice.Config{Contact: c.NoticeContact, Now: time.Now, Log: log}, exe)
	if err != nil {
		log.Error("the people at this machine will not be told anything", "err", err)
		return nil
	}
	return n
}

type agentNotifier struct{}

// Run tells the people at this machine what the agent that started it says.
func (agentNotifier) Run(env *cli.Env) error { return notice.Notifier(env.Log()) }

type agentMessenger struct{}

// Run tells one of them, as that user.
func (agentMessenger) Run() error { return notice.Messenger() }
