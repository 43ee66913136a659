-- Lists of actions: newest first and by a range of creation times; what has
-- changed since a time; those that ended in a status, newest first. All three grow
-- where they were written to last, so that a new action dirties few pages for
-- them. Open actions are few and change soon: they are sorted when asked for.
CREATE INDEX actions_created ON actions (created);
CREATE INDEX actions_updated ON actions (updated);
CREATE INDEX actions_ended ON actions (status, created) WHERE status NOT IN ('Pending', 'InProgress');
