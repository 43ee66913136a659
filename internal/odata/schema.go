package odata

import "github.com/cordon-project/cordon"

// MachineActions describes the members of Defender's MachineAction (contract 4)
// and which of them a query can use (contract 9). It is not to be changed.
var MachineActions = cordon.NewSchema(
	cordon.FieldInfo{Name: cordon.FieldID, Type: cordon.TypeString, Filterable: true, Fold: true},
	cordon.FieldInfo{Name: cordon.FieldType, Type: cordon.TypeString, Filterable: true},
	cordon.FieldInfo{Name: "title", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: cordon.FieldRequestor, Type: cordon.TypeString, Filterable: true},
	cordon.FieldInfo{Name: "requestorComment", Type: cordon.TypeString},
	cordon.FieldInfo{Name: cordon.FieldStatus, Type: cordon.TypeString, Filterable: true},
	cordon.FieldInfo{Name: cordon.FieldMachineID, Type: cordon.TypeString, Filterable: true, Fold: true},
	cordon.FieldInfo{Name: cordon.FieldDNSName, Type: cordon.TypeString, Fold: true, Nullable: true},
	cordon.FieldInfo{Name: cordon.FieldCreated, Type: cordon.TypeTime, Filterable: true},
	cordon.FieldInfo{Name: cordon.FieldUpdated, Type: cordon.TypeTime, Filterable: true},
	cordon.FieldInfo{Name: "cancellationRequestor", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: "cancellationComment", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: "cancellationDateTimeUtc", Type: cordon.TypeTime, Nullable: true},
	cordon.FieldInfo{Name: "errorHResult", Type: cordon.TypeInt},
	cordon.FieldInfo{Name: "scope", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: "externalId", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: "requestSource", Type: cordon.TypeString},
	cordon.FieldInfo{Name: "relatedFileInfo", Nullable: true},
	cordon.FieldInfo{Name: "commands"},
	cordon.FieldInfo{Name: "troubleshootInfo", Nullable: true},
)

// Machines describes the members of Defender's Machine (contract 8) and which
// of them a query can use (contract 9). It is not to be changed.
var Machines = cordon.NewSchema(
	cordon.FieldInfo{Name: cordon.FieldID, Type: cordon.TypeString, Filterable: true, Fold: true},
	cordon.FieldInfo{Name: "mergedIntoMachineId", Type: cordon.TypeString, Fold: true, Nullable: true},
	cordon.FieldInfo{Name: "isPotentialDuplication", Type: cordon.TypeBool},
	cordon.FieldInfo{Name: "isExcluded", Type: cordon.TypeBool},
	cordon.FieldInfo{Name: "exclusionReason", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: cordon.FieldDNSName, Type: cordon.TypeString, Filterable: true, Fold: true, Nullable: true},
	cordon.FieldInfo{Name: "firstSeen", Type: cordon.TypeTime},
	cordon.FieldInfo{Name: cordon.FieldLastSeen, Type: cordon.TypeTime, Filterable: true},
	cordon.FieldInfo{Name: cordon.FieldOSPlatform, Type: cordon.TypeString, Filterable: true, Nullable: true},
	cordon.FieldInfo{Name: "osVersion", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: "osProcessor", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: cordon.FieldVersion, Type: cordon.TypeString, Filterable: true, Nullable: true},
	cordon.FieldInfo{Name: cordon.FieldLastIP, Type: cordon.TypeString, Filterable: true, Nullable: true},
	cordon.FieldInfo{Name: "lastExternalIpAddress", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: "agentVersion", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: "osBuild", Type: cordon.TypeInt, Nullable: true},
	cordon.FieldInfo{Name: cordon.FieldHealthStatus, Type: cordon.TypeString, Filterable: true},
	cordon.FieldInfo{Name: cordon.FieldDeviceValue, Type: cordon.TypeString, Filterable: true, Nullable: true},
	cordon.FieldInfo{Name: cordon.FieldGroupID, Type: cordon.TypeInt, Filterable: true},
	cordon.FieldInfo{Name: "rbacGroupName", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: cordon.FieldRiskScore, Type: cordon.TypeString, Filterable: true, Nullable: true},
	cordon.FieldInfo{Name: cordon.FieldExposureLevel, Type: cordon.TypeString, Filterable: true, Nullable: true},
	cordon.FieldInfo{Name: "isAadJoined", Type: cordon.TypeBool},
	cordon.FieldInfo{Name: cordon.FieldDeviceID, Type: cordon.TypeString, Filterable: true, Fold: true, Nullable: true},
	cordon.FieldInfo{Name: cordon.FieldTags, Type: cordon.TypeStringList, Filterable: true, Fold: true},
	cordon.FieldInfo{Name: cordon.FieldOnboardingStatus, Type: cordon.TypeString, Filterable: true},
	cordon.FieldInfo{Name: "osArchitecture", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: "managedBy", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: "managedByStatus", Type: cordon.TypeString, Nullable: true},
	cordon.FieldInfo{Name: "ipAddresses"},
	cordon.FieldInfo{Name: "vmMetadata", Nullable: true},
)
