{{- define "perennial.labels" -}}
app.kubernetes.io/name: perennial
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "perennial.name" -}}
{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- /* The addresses of all coordinators, with commas between. */ -}}
{{- define "perennial.coordinators" -}}
{{- $name := printf "%s-coordinator" (include "perennial.name" .) -}}
{{- $addresses := list -}}
{{- range $number := until (int .Values.coordinator.replicas) -}}
{{- $addresses = append $addresses (printf "https://%s-%d.%s.%s.svc:%d" $name $number $name $.Release.Namespace (int $.Values.coordinator.port)) -}}
{{- end -}}
{{ join "," $addresses }}
{{- end }}

{{- define "perennial.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "perennial.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- /* Of a role: where its certificate lies. */ -}}
{{- define "perennial.tls" -}}
- { name: PERENNIAL_LOG_FORMAT, value: json }
- { name: PERENNIAL_TLS_CA, value: /etc/perennial/tls/ca.pem }
- { name: PERENNIAL_TLS_CERT, value: /etc/perennial/tls/{{ . }}.pem }
- { name: PERENNIAL_TLS_KEY, value: /etc/perennial/tls/{{ . }}.key }
{{- end }}
