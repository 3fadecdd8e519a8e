// Volumes for the test cluster: a folder for each claim, writable by any user, on the one disk that all nodes share.
// Makes, deletes and grows volumes of the classes whose provisioner is `nightjar.test/folder`; touches nothing else.
//
// A class with the parameter `pinned: zone` ties each volume to the zone of the node its first pod was placed on, as
// the disks of a cloud are.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v11/controller"
)

const provisionerName = "nightjar.test/folder"

type provisioner struct{ root string }

// Provision makes the folder. The name of the volume is the claim's UID, so it is never shared.
func (p *provisioner) Provision(_ context.Context, options controller.ProvisionOptions) (*v1.PersistentVolume, controller.ProvisioningState, error) {
	affinity, err := pinned(options)
	if err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	path := filepath.Join(p.root, options.PVName)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	// hostPath ignores fsGroup, so pods that run as any user must be able to write; MkdirAll heeds the umask.
	if err := os.Chmod(path, 0o777); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	kind := v1.HostPathDirectory
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: options.PVC.Spec.Resources.Requests[v1.ResourceStorage]},
			NodeAffinity:                  affinity,
			PersistentVolumeSource:        v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: path, Type: &kind}},
		},
	}, controller.ProvisioningFinished, nil
}

// pinned is where the volume may be used: nil stands for every node.
func pinned(options controller.ProvisionOptions) (*v1.VolumeNodeAffinity, error) {
	if options.StorageClass.Parameters["pinned"] != "zone" {
		return nil, nil
	}
	if options.SelectedNode == nil {
		return nil, fmt.Errorf("class %s pins volumes to a zone, so it needs volumeBindingMode WaitForFirstConsumer", options.StorageClass.Name)
	}
	zone, labelled := options.SelectedNode.Labels[v1.LabelTopologyZone]
	if !labelled {
		return nil, fmt.Errorf("node %s has no label %s", options.SelectedNode.Name, v1.LabelTopologyZone)
	}
	return &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{
		MatchExpressions: []v1.NodeSelectorRequirement{{Key: v1.LabelTopologyZone, Operator: v1.NodeSelectorOpIn, Values: []string{zone}}},
	}}}}, nil
}

// Delete removes the folder of a volume that was given back.
func (p *provisioner) Delete(_ context.Context, volume *v1.PersistentVolume) error {
	if volume.Spec.HostPath == nil || volume.Spec.HostPath.Path != filepath.Join(p.root, volume.Name) {
		return fmt.Errorf("volume %s does not lie where this provisioner makes volumes", volume.Name)
	}
	return os.RemoveAll(volume.Spec.HostPath.Path)
}

// grow gives a bound claim that asks for more than it has what it asks for; the disk is shared, so only the numbers change.
func (p *provisioner) grow(ctx context.Context, client kubernetes.Interface, claim *v1.PersistentVolumeClaim) error {
	wanted := claim.Spec.Resources.Requests[v1.ResourceStorage]
	if claim.Status.Phase != v1.ClaimBound || wanted.Cmp(claim.Status.Capacity[v1.ResourceStorage]) <= 0 {
		return nil
	}
	volume, err := client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if volume.Annotations["pv.kubernetes.io/provisioned-by"] != provisionerName {
		return nil
	}
	if wanted.Cmp(volume.Spec.Capacity[v1.ResourceStorage]) > 0 {
		volume.Spec.Capacity[v1.ResourceStorage] = wanted
		if _, err := client.CoreV1().PersistentVolumes().Update(ctx, volume, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	claim = claim.DeepCopy()
	claim.Status.Capacity[v1.ResourceStorage] = wanted
	claim.Status.AllocatedResources, claim.Status.AllocatedResourceStatuses, claim.Status.Conditions = nil, nil, nil
	_, err = client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	return err
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API server")
	root := flag.String("root", "", "folder for the volumes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config, err := clientcmd.BuildConfigFromFlags("", *kubeconfig)
	if err != nil {
		klog.Fatal(err)
	}
	client := kubernetes.NewForConfigOrDie(config)
	p := &provisioner{root: *root}

	factory := informers.NewSharedInformerFactory(client, 0)
	claims := factory.Core().V1().PersistentVolumeClaims().Informer()
	// A claim that could not be grown is seen again on its next change: the conflict that refused it is one.
	tryGrow := func(object any) {
		if claim, is := object.(*v1.PersistentVolumeClaim); is {
			if err := p.grow(ctx, client, claim); err != nil {
				klog.Errorf("growing %s/%s: %v", claim.Namespace, claim.Name, err)
			}
		}
	}
	if _, err := claims.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    tryGrow,
		UpdateFunc: func(_, object any) { tryGrow(object) },
	}); err != nil {
		klog.Fatal(err)
	}
	factory.Start(ctx.Done())
	controller.NewProvisionController(ctx, client, provisionerName, p, controller.LeaderElection(false)).Run(ctx)
}
