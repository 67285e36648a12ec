package main

import (
	"crypto/sha1"
	"fmt"
	"sort"
	"strings"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	// rootChain is entered from FORWARD and leads to one chain per pod and direction.
	rootChain   = "LAB-NP"
	chainPrefix = "LAB-"
	setPrefix   = "LABNP-"
)

// cluster is what policies are about, as the watches last saw it.
type cluster struct {
	node       string
	pods       []*core.Pod
	namespaces map[string]map[string]string // labels by name
	policies   []*networking.NetworkPolicy
}

// ruleset is the whole state of one node: ipset members by set, iptables rules by chain.
type ruleset struct {
	sets   map[string][]string
	chains map[string][]string
}

// digest is short enough for the names of chains (28 characters) and sets (31).
func digest(text string) string {
	return fmt.Sprintf("%x", sha1.Sum([]byte(text)))[:16]
}

func selects(selector *meta.LabelSelector, set map[string]string) bool {
	parsed, err := meta.LabelSelectorAsSelector(selector)
	return err == nil && parsed.Matches(labels.Set(set))
}

// hasAddress tells pods that own their address from those that use the host's, or none any more.
func hasAddress(pod *core.Pod) bool {
	return pod.Status.PodIP != "" && !pod.Spec.HostNetwork &&
		pod.Status.Phase != core.PodSucceeded && pod.Status.Phase != core.PodFailed
}

// render gives the rules of all pods of this node that a policy selects; the others keep no rule and stay open.
func (c *cluster) render() ruleset {
	result := ruleset{
		sets:   map[string][]string{},
		chains: map[string][]string{rootChain: {"-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"}},
	}
	var out, in []string
	for _, pod := range c.pods {
		if pod.Spec.NodeName != c.node || !hasAddress(pod) {
			continue
		}
		for _, direction := range []networking.PolicyType{networking.PolicyTypeEgress, networking.PolicyTypeIngress} {
			chain := fmt.Sprintf("%s%s-%s", chainPrefix, direction[:2], digest(string(pod.UID)))
			rules, selected := c.podRules(&result, pod, direction)
			if !selected {
				continue
			}
			result.chains[chain] = append(rules, "-j DROP")
			if direction == networking.PolicyTypeEgress {
				out = append(out, "-s "+pod.Status.PodIP+" -j "+chain)
			} else {
				in = append(in, "-d "+pod.Status.PodIP+" -j "+chain)
			}
		}
	}
	// RETURN out of a pod's chain means allowed: egress is asked first, then ingress of a pod on the same node.
	result.chains[rootChain] = append(append(result.chains[rootChain], out...), in...)
	return result
}

// podRules gives what is allowed in one direction, and whether any policy selects the pod for it.
func (c *cluster) podRules(result *ruleset, pod *core.Pod, direction networking.PolicyType) (rules []string, selected bool) {
	for _, policy := range c.policies {
		if !applies(policy, pod, direction) {
			continue
		}
		selected = true
		allow := func(index int, peers []networking.NetworkPolicyPeer, ports []networking.NetworkPolicyPort, flag string, targets []*core.Pod) {
			match := ""
			if len(peers) > 0 {
				set := setPrefix + digest(fmt.Sprint(policy.UID, direction, index))
				result.sets[set] = c.members(policy.Namespace, peers)
				match = fmt.Sprintf("-m set --match-set %s %s ", set, flag)
			}
			for _, port := range portMatches(ports, targets) {
				rules = append(rules, match+port+" -j RETURN")
			}
		}
		if direction == networking.PolicyTypeIngress {
			for i, rule := range policy.Spec.Ingress {
				allow(i, rule.From, rule.Ports, "src", []*core.Pod{pod})
			}
			continue
		}
		for i, rule := range policy.Spec.Egress {
			allow(i, rule.To, rule.Ports, "dst", c.pods)
		}
	}
	return rules, selected
}

func applies(policy *networking.NetworkPolicy, pod *core.Pod, direction networking.PolicyType) bool {
	if policy.Namespace != pod.Namespace || !selects(&policy.Spec.PodSelector, pod.Labels) {
		return false
	}
	for _, kind := range policy.Spec.PolicyTypes {
		if kind == direction {
			return true
		}
	}
	return false
}

// members gives the addresses and networks that the peers of one rule stand for.
func (c *cluster) members(namespace string, peers []networking.NetworkPolicyPeer) []string {
	var found []string
	for _, peer := range peers {
		if block := peer.IPBlock; block != nil {
			if block.CIDR == "0.0.0.0/0" { // an ipset hash:net cannot hold /0
				found = append(found, "0.0.0.0/1", "128.0.0.0/1")
			} else {
				found = append(found, block.CIDR)
			}
			for _, except := range block.Except {
				found = append(found, except+" nomatch")
			}
			continue
		}
		for _, pod := range c.pods {
			if hasAddress(pod) && c.isPeer(namespace, peer, pod) {
				found = append(found, pod.Status.PodIP)
			}
		}
	}
	sort.Strings(found)
	return found
}

func (c *cluster) isPeer(namespace string, peer networking.NetworkPolicyPeer, pod *core.Pod) bool {
	if peer.NamespaceSelector == nil && pod.Namespace != namespace {
		return false
	}
	if peer.NamespaceSelector != nil && !selects(peer.NamespaceSelector, c.namespaces[pod.Namespace]) {
		return false
	}
	return peer.PodSelector == nil || selects(peer.PodSelector, pod.Labels)
}

// portMatches gives the port part of iptables rules; named ports are those of the targets. No ports: one empty match.
func portMatches(ports []networking.NetworkPolicyPort, targets []*core.Pod) []string {
	if len(ports) == 0 {
		return []string{""}
	}
	var matches []string
	for _, port := range ports {
		protocol := "tcp"
		if port.Protocol != nil {
			protocol = strings.ToLower(string(*port.Protocol))
		}
		switch {
		case port.Port == nil:
			matches = append(matches, "-p "+protocol)
		case port.Port.Type == intstr.Int && port.EndPort != nil:
			matches = append(matches, fmt.Sprintf("-p %s --dport %d:%d", protocol, port.Port.IntVal, *port.EndPort))
		case port.Port.Type == intstr.Int:
			matches = append(matches, fmt.Sprintf("-p %s --dport %d", protocol, port.Port.IntVal))
		default:
			matches = append(matches, namedPort(port.Port.StrVal, protocol, targets)...)
		}
	}
	return matches
}

func namedPort(name, protocol string, targets []*core.Pod) []string {
	var matches []string
	for _, pod := range targets {
		if !hasAddress(pod) {
			continue
		}
		for _, container := range pod.Spec.Containers {
			for _, port := range container.Ports {
				if port.Name == name && strings.EqualFold(string(port.Protocol), protocol) {
					matches = append(matches, fmt.Sprintf("-d %s -p %s --dport %d", pod.Status.PodIP, protocol, port.ContainerPort))
				}
			}
		}
	}
	return matches
}
