package cordon

import "context"

// Seen takes in what machine m tells of files that are not trusted.
func (s *Service) Seen(ctx context.Context, m MachineID, told Findings) error {
	told, err := told.Clean()
	if err != nil {
		return err
	}
	return s.Store.PutFindings(ctx, m, told)
}

// Findings returns what a machine that [Service.Find] returned told last of a
// kind. If it told nothing the result is empty.
func (s *Service) Findings(ctx context.Context, c Caller, m Machine, kind FindingKind) (Findings, error) {
	if err := c.Authorize(ReadMachines); err != nil {
		return Findings{}, err
	}
	told, err := s.Store.Findings(ctx, m.ID, kind)
	if KindOf(err) == NotFound {
		return Findings{Kind: kind, Files: []Finding{}}, nil
	}
	return told, err
}

// Preview returns what a machine that [Service.Find] returned told of what a
// restriction would hit there.
func (s *Service) Preview(ctx context.Context, c Caller, m Machine) (p Preview, err error) {
	if p.Running, err = s.Findings(ctx, c, m, Running); err == nil {
		p.Audited, err = s.Findings(ctx, c, m, Audited)
	}
	return p, err
}
